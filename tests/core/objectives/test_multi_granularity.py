"""Alignment of pictures and text against REMGCL's own figures, and both forms against plain loops."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import granularity_exactness
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from polylens.contracts import Batch, Crop, Outputs, Regions, SlicedImage
from polylens.errors import InputError
from polylens.modeling.coverage import TokenCover
from polylens.objectives import build
from polylens.objectives.multi_granularity import MultiGranularity, MultiGranularityOptions
from polylens.objectives.paired import equal_pairs, paired_info_nce
from polylens.objectives.slope import gradient_error
from polylens.objectives.stop_words import StopWords

SIDE, PATCHES = 16, 256


def batch_of(labels: Tensor, visual: Tensor, regions: Regions | None = None, **rows: Tensor) -> Batch:
    crop_rows = visual.any(dim=1).nonzero().flatten()
    return Batch(
        ids=[f"r{i}" for i in range(len(labels))],
        input_ids=labels.clamp(min=0),
        attention_mask=torch.ones_like(labels, dtype=torch.bool),
        labels=labels,
        visual_mask=visual,
        pixels=[],
        crop_rows=crop_rows,
        crop_tokens=visual.sum(dim=1)[crop_rows],
        costs=torch.full((len(labels),), labels.shape[1]),
        regions=regions,
        rows=rows,
    )


def square(side: int) -> SlicedImage:
    """A square picture under a tower of 16 x 16 patches."""
    edges = np.arange(SIDE + 1) * side / SIDE
    boxes = [[edges[j], edges[i], edges[j + 1], edges[i + 1]] for i in range(SIDE) for j in range(SIDE)]
    return SlicedImage((side, side), (Crop((224, 224), (0, 0, 224, 224), PATCHES),), None, np.array(boxes, np.float32))


@pytest.fixture(scope="module")
def original(golden: Path) -> dict[str, Any]:
    """The forward pass of five samples with OCR lines in REMGCL's own program."""
    folder = golden / "llava_remgcl"
    tensors = load_file(folder / "compact_main5.safetensors")
    meta = json.loads((folder / "forward_main5" / "meta.json").read_text())
    table = load_file(folder / "tiny-llava" / "model.safetensors")["model.embed_tokens.weight"]
    places = (tensors["input_ids"] == -200).int().argmax(dim=1)
    visual = torch.zeros_like(tensors["labels_out"], dtype=torch.bool)
    for row, place in enumerate(places.tolist()):
        visual[row, place : place + PATCHES] = True
    words = json.loads((folder / "stopwords_tiny_ids.json").read_text())["stopwords"]
    variants = json.loads((folder / "derived_variants.json").read_text())
    return {"tensors": tensors, "meta": meta, "table": table, "visual": visual, "words": words, "variants": variants}


def terms_of(original: dict[str, Any], **options: Any) -> dict[str, float]:
    """Terms of the loss, without their weights."""
    weights = {"global_weight": 1.0, "local_weight": 1.0}
    objective = MultiGranularity(MultiGranularityOptions(**{**weights, **options}), StopWords(original["words"]))
    assert objective.cover is not None
    rows = []
    for row in range(5):
        lines = [line for line in original["meta"]["ocr_lines"] if line["sample"] == row]
        sliced = square(lines[0]["image_size"][0] if lines else 50)
        places = objective.cover.tokens(sliced, np.array([line["bbox"] for line in lines]).reshape(-1, 4))
        shown = zip(lines, places, strict=True)
        given = [(line["token_ids"], tokens.tolist(), line["score"]) for line, tokens in shown]
        rows.append(Regions.of_example([True] * PATCHES, given))
    batch = batch_of(original["tensors"]["labels_out"], original["visual"], Regions.joined(rows))
    outputs = Outputs(
        hidden=torch.zeros(*batch.labels.shape, 4),
        head=nn.Linear(4, len(original["table"])),
        connector=original["tensors"]["projector_out"].flatten(0, 1),
        embeddings=original["table"][objective.embed_ids(batch)],
    )
    if objective.is_coupled:
        made = objective.representations(outputs, batch)
        own = {name: torch.arange(len(r.values)) for name, r in made.items()}
        labels = {name: r.labels for name, r in made.items() if r.labels is not None}
        found = objective.coupled({name: r.values for name, r in made.items()}, own, labels=labels)
        return {name: float(value) for name, value in found.metrics.items()}
    return {n: value.item() for n, value in objective.additive(outputs, batch, objective.normalisers(batch)).items()}


def test_alignment_is_that_of_the_original(original):
    found = terms_of(original, compat=["remgcl_grid"])
    assert found["loss_global"] == pytest.approx(original["meta"]["loss_global"], abs=1e-6)
    assert found["loss_local"] == pytest.approx(original["meta"]["loss_local"], abs=1e-6)


def test_the_right_grid_is_the_default(original):
    wanted = original["variants"]
    assert terms_of(original)["loss_local"] == pytest.approx(wanted["local_grid16"]["loss"], abs=1e-6)
    weighted = terms_of(original, compat=["remgcl_grid"], confidence_weighting=True)
    assert weighted["loss_local"] == pytest.approx(wanted["local_grid14_confidence_weighted"]["loss"], abs=1e-6)


def test_info_nce_is_the_derived_one(original):
    found = terms_of(original, form="infonce")
    wanted = original["variants"]["global_infonce_in_batch"]
    assert found["loss_global"] == pytest.approx(wanted["symmetric"], abs=1e-6)


def test_means_and_stop_words_are_those_of_the_original(original):
    labels = original["tensors"]["labels_out"]
    kept = (labels != -100) & ~StopWords(original["words"]).found(labels)
    assert torch.equal(kept, original["tensors"]["filter_mask"].bool())


@pytest.mark.parametrize("case", granularity_exactness.CASES[2:5], ids=str)
def test_both_forms_on_one_process(case):
    """In float64, with ragged micro-batches, dropout and LoRA, for two families."""
    assert granularity_exactness.exact(case) <= 1e-10


def toy(form: str, labels: Tensor, visual: Tensor, regions: Regions | None = None, **options: Any):
    objective = MultiGranularity(
        MultiGranularityOptions(form=form, global_weight=1.0, local_weight=1.0, **options),  # type: ignore[arg-type]
        StopWords([[3]]),
    )
    batch = batch_of(labels, visual, regions)
    torch.manual_seed(0)
    table = torch.randn(20, 6, requires_grad=True)
    connector = torch.randn(int(visual.sum()), 6, requires_grad=True)
    outputs = Outputs(
        hidden=torch.randn(*labels.shape, 6, requires_grad=True),
        head=nn.Linear(6, 20),
        connector=connector,
        embeddings=table[objective.embed_ids(batch)],
    )
    return objective, batch, outputs


@pytest.mark.parametrize("form", ["alignment", "infonce"])
def test_nothing_to_align_is_no_nan(form):
    """An answer of stop words alone, one without a picture, and a picture without a line."""
    labels = torch.tensor([[-100, 3, 3], [-100, 5, 6], [-100, -100, 3]])
    visual = torch.tensor([[True, False, False], [False] * 3, [True, True, False]])
    empty = Regions.joined([Regions.of_example([True] * n) for n in (1, 0, 2)])
    objective, batch, outputs = toy(form, labels, visual, empty)
    terms = objective.additive(outputs, batch, {"tokens": 5, "pictures": 0, "lines": 0, "scores": 0.0})
    assert all(math.isfinite(term.item()) for term in terms.values())
    assert objective.normalisers(batch)["tokens"] == 5
    if form == "infonce":
        made = objective.representations(outputs, batch)
        assert {name: len(r.values) for name, r in made.items()} == dict.fromkeys(made, 0)
        labels = {name: r.labels for name, r in made.items() if r.labels is not None}
        coupled = objective.coupled({name: r.values for name, r in made.items()}, {}, labels=labels)
        assert float(coupled.loss) == 0
    else:
        assert (terms["loss_global"], terms["loss_local"]) == (0, 0)


def test_text_alone_takes_no_part():
    labels = torch.tensor([[-100, 5, 6], [-100, 7, 8]])
    visual = torch.tensor([[True, False, False], [False] * 3])
    regions = Regions.joined([Regions.of_example([True]), Regions.of_example([])])
    objective, batch, _ = toy("alignment", labels, visual, regions)
    assert objective.normalisers(batch)["pictures"] == 1
    assert objective.embed_ids(batch).tolist() == [5, 6]


def test_a_batch_without_regions_is_refused_if_it_has_pictures():
    labels = torch.tensor([[-100, 5]])
    with pytest.raises(ValueError, match=r"Batch\.regions"):
        toy("alignment", labels, torch.tensor([[True, False]]))


def test_equal_texts_and_equal_pictures_are_no_negatives():
    labels = torch.tensor([4, 9, 4, 7]), torch.tensor([1, 1, 2, 3])
    pairs = {tuple(pair) for pair in equal_pairs(*labels).tolist()}
    assert pairs == {(0, 2), (2, 0), (0, 1), (1, 0)}


def test_the_gradient_of_weighted_pairs_is_that_of_their_loss():
    torch.manual_seed(1)
    vectors = {name: nn.functional.normalize(torch.randn(7, 5), dim=1) for name in ("line_text", "line_image")}
    scores = torch.rand(7).view(torch.int32).long()
    labels = {
        "line_text": torch.stack([torch.tensor([0, 1, 2, 0, 4, 5, 6]), scores], dim=1),
        "line_image": torch.stack([torch.tensor([0, 1, 2, 3, 3, 5, 6]), scores], dim=1),
    }
    options = MultiGranularityOptions(form="infonce", global_weight=0, confidence_weighting=True, tile_rows=3)
    assert gradient_error(MultiGranularity(options, StopWords([])), vectors, labels=labels) < 1e-5


def test_no_pairs_cost_nothing():
    vectors = {name: torch.empty(0, 4) for name in ("text", "image")}
    own = {name: torch.empty(0, dtype=torch.long) for name in vectors}
    made = paired_info_nce(vectors, own, temperature=0.5, ignore=torch.empty(0, 2, dtype=torch.long))
    assert float(made.loss) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"global_weight": -1}, "global_weight is -1"),
        ({"local_temperature": 0}, "local_temperature is 0"),
        ({"minimum_cover": 1.5}, "minimum_cover is 1.5"),
        ({"compat": ["grid"]}, "compat has 'grid'; it may have: remgcl_grid"),
        ({"stop_words": ["none", "english"]}, "'none' stands alone"),
        ({"stop_words": ["klingon"]}, "'klingon' is neither a file nor a language"),
        ({"tile_rows": 0}, "tile_rows is 0"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        build("multi_granularity", options)


def test_a_grid_that_does_not_fit_the_tower_is_refused():
    boxes = np.zeros((64, 4), np.float32)
    small = SlicedImage((10, 10), (Crop((56, 56), (0, 0, 56, 56), 64),), None, boxes)
    with pytest.raises(InputError, match="64 visual tokens in 1 crops, and a grid of 14 x 14 does not fit"):
        TokenCover(grid=14).tokens(small, np.array([[0.0, 0, 5, 5]]))
