"""The loss of REMGCL on its own model, conversations, pictures and OCR lines: every term, and the gradient."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
import torch
from PIL import Image

from polylens.contracts import Batch
from polylens.data.images import ImageOpener
from polylens.data.ocr.lines import read_ocr_lines
from polylens.engine.accumulation import Accumulation
from polylens.engine.gradient_cache import GradientCache, StepResult
from polylens.engine.training_module import TrainingModule
from polylens.objectives.multi_granularity import MultiGranularity, MultiGranularityOptions
from polylens.objectives.stop_words import StopWords


@pytest.fixture(scope="module")
def remgcl(original):
    return original.load(compat={"reference_ids": "legacy"})


@pytest.fixture(scope="module")
def lines(original, tmp_path_factory):
    """Boxes of the original lie in the padded square: here they are those of the picture itself."""
    said = json.loads((original.folder / "ocr.json").read_text(encoding="utf-8"))
    path = tmp_path_factory.mktemp("ocr") / "ocr.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for name, found in said.items():
            width, height = Image.open(original.folder / "images" / name).size
            left, top = (max(height - width, 0) // 2, max(width - height, 0) // 2)
            boxes = [
                {"box": [p[0][0] - left, p[0][1] - top, p[2][0] - left, p[2][1] - top], "text": t, "score": score}
                for p, (t, score) in found or []
            ]
            record = {"image": f"images/{name}", "width": width, "height": height, "engine": "reference"}
            file.write(json.dumps({**record, "lines": boxes}) + "\n")
    return read_ocr_lines([path], image_root=original.folder)


def step(original, found, lines, rows: int = 5, **options: Any) -> tuple[StepResult, dict[str, torch.Tensor]]:
    words = json.loads((original.folder / "stopwords_tiny_ids.json").read_text())["stopwords"]
    objective = MultiGranularity(MultiGranularityOptions(**options), StopWords(words))
    module = TrainingModule(found.model, objective)
    module.eval()
    module.zero_grad(set_to_none=True)
    preparer = found.preparer(ImageOpener(original.folder))
    preparer = dataclasses.replace(preparer, finder=found.finder(objective, lines))
    examples = [preparer.example(record) for record in original.records()]
    batches: list[Batch] = [found.collator()(examples[i : i + rows]) for i in range(0, len(examples), rows)]
    result = GradientCache.of_module(module, objective, Accumulation()).step(batches)
    gradients = {name: p.grad.clone() for name, p in found.model.named_parameters() if p.grad is not None}
    return result, gradients


@pytest.mark.parametrize("rows", [5, 2])
def test_the_loss_is_that_of_the_original(original, remgcl, lines, rows):
    """Whole, and in micro-batches, where the original would divide by other numbers."""
    result, gradients = step(original, remgcl, lines, rows, compat=["remgcl_grid"])
    meta = original.meta
    assert float(result.loss) == pytest.approx(meta["loss_total"], abs=1e-5)
    assert result.metrics["loss_lm"] == pytest.approx(meta["loss_lm"], abs=1e-5)
    assert result.metrics["loss_global"] == pytest.approx(0.01 * meta["loss_global"], abs=1e-7)
    assert result.metrics["loss_local"] == pytest.approx(0.01 * meta["loss_local"], abs=1e-7)
    assert result.counts["lines"] == len(meta["ocr_lines"])
    norm = torch.stack([g.norm() for name, g in gradients.items() if "vision_tower" not in name]).norm()
    assert float(norm) == pytest.approx(meta["grad_norm_total"], rel=1e-4)
    compared = 0
    for name, wanted in original.tensors.items():
        if name.startswith("grad."):
            mine = gradients[_name(name.removeprefix("grad."), gradients)]
            torch.testing.assert_close(mine, wanted, rtol=1e-3, atol=1e-6)
            compared += 1
    assert compared == 7


def test_the_right_grid_is_the_default(original, remgcl, lines):
    wanted = json.loads((original.folder / "derived_variants.json").read_text())["local_grid16"]["loss"]
    result, _ = step(original, remgcl, lines)
    assert result.metrics["loss_local"] == pytest.approx(0.01 * wanted, abs=1e-7)


def test_negatives_over_micro_batches_are_those_of_the_whole_batch(original, remgcl, lines):
    wanted = json.loads((original.folder / "derived_variants.json").read_text())["global_infonce_in_batch"]
    result, whole = step(original, remgcl, lines, form="infonce")
    assert result.metrics["loss_global"] == pytest.approx(0.01 * wanted["symmetric"], abs=1e-7)
    _, parts = step(original, remgcl, lines, 1, form="infonce")
    apart = sum(float((whole[name] - parts[name]).pow(2).sum()) for name in whole) ** 0.5
    assert apart < 1e-5 * sum(float(g.pow(2).sum()) for g in whole.values()) ** 0.5


def _name(name: str, known: dict[str, torch.Tensor]) -> str:
    """Ours for a name of the original."""
    if f"language_model.{name}" in known:
        return f"language_model.{name}"
    (projector,) = [mine for mine in known if "projector" in mine and mine.endswith(name.split("mm_projector.")[1])]
    return projector
