"""``vision_chunk_size`` in a run: it changes memory, and no weight."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from toy import write_toy

from polylens.cli import main
from polylens.config.run import GradientCacheConfig, LoraSettings
from polylens.contracts import Batch
from polylens.engine.frozen import FrozenOutputs
from polylens.engine.gradient_cache import GradientCache
from polylens.engine.loading import load_checkpoint
from polylens.engine.trainable import choose_trained
from polylens.errors import InputError
from polylens.objectives.contrastive import Contrastive, ContrastiveOptions
from polylens.retrieval.encoding import EncodeOptions
from polylens.retrieval.vectors import VectorStore
from polylens.testing import Subject
from polylens.testing.subject import picture
from polylens_minicpmv.models.base import MiniCPMVModel
from polylens_minicpmv.vision.vit import VisionTower

OBJECTIVE = Contrastive(ContrastiveOptions(temperature=0.5))


@pytest.fixture(scope="module")
def micro_batches() -> list[Batch]:
    subject = Subject("minicpmv")
    pages = [(picture(90, 60), "\n"), (picture(300, 200, seed=1), "\n"), (picture(40, 150, seed=2), "\n")]
    rows = [(0, i, (f"page {i}",)) for i in range(3)] + [(1, i, parts) for i, parts in enumerate(pages)]
    examples = [subject.example(*parts, rows={"role": role, "position": i}) for role, i, parts in rows]
    return [subject.batch(examples[:3]), subject.batch(examples[3:])]


def model_for(size: int | None, lora: LoraSettings | None, tune: list[str] | None):
    checkpoint = load_checkpoint("minicpmv", "tiny", seed=3, vision_chunk_size=size)
    torch.manual_seed(7)  # LoRA draws its first weights
    choose_trained(checkpoint.model, checkpoint.family, OBJECTIVE, tune, lora or LoraSettings())
    for name, weight in checkpoint.model.named_parameters():
        if "lora_B" in name:  # zero at first, which would hide the gradient of lora_A
            nn.init.normal_(weight, std=0.05)
    return checkpoint.model.to(torch.float64).train()


def cached(micro_batches, size, *, lora=None, tune=None, frozen=False, checkpointing=False):
    """Gradients in two passes."""
    model = model_for(size, lora, tune)
    if checkpointing:
        model.activation_checkpointing_enable()
    kept = FrozenOutputs(model, 2**30) if frozen else None
    cache = GradientCache(lambda batch: model(batch, outputs={"hidden"}), OBJECTIVE, frozen=kept)
    for _ in range(1 + frozen):  # the first step finds out which outputs are read
        model.zero_grad()
        torch.manual_seed(1)
        cache.step(micro_batches)
    return {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}


def direct(micro_batches, size, *, lora=None, tune=None):
    """Gradients of one graph."""
    model = model_for(size, lora, tune)
    torch.manual_seed(1)
    made = [OBJECTIVE.representations(model(batch), batch) for batch in micro_batches]
    queries, documents = made[0]["query"].values, made[1]["document"].values
    nn.functional.cross_entropy(queries @ documents.T / 0.5, torch.arange(len(queries))).backward()
    return {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}


def assert_same(found, wanted):
    assert found.keys() == wanted.keys()
    away = sum(float((found[name] - wanted[name]).pow(2).sum()) for name in wanted)
    assert (away / sum(float(gradient.pow(2).sum()) for gradient in wanted.values())) ** 0.5 < 1e-6


RUNS = {
    "tower in chunks that blocks cut again": {"checkpointing": True},
    "frozen tower, kept": {"frozen": True, "tune": ["connector", "llm"]},
    "frozen tower and connector, kept": {"frozen": True, "tune": ["llm"]},
    "adapters in the tower": {
        "frozen": True,
        "lora": LoraSettings(enable=True, r=4, dropout=0.0, components=["vision"]),
    },
}


@pytest.mark.parametrize("case", RUNS)
def test_the_gradient_is_that_of_one_call(case, micro_batches):
    plain = {name: value for name, value in RUNS[case].items() if name in ("lora", "tune")}
    assert_same(cached(micro_batches, 2, **RUNS[case]), direct(micro_batches, None, **plain))


def test_dropout_is_replayed_in_every_chunk(micro_batches, monkeypatch):
    """Two passes and a computation in the backward pass, against one graph that draws once."""
    lora = LoraSettings(enable=True, r=4, dropout=0.3, components=["vision"])
    found = cached(micro_batches, 2, lora=lora, frozen=True)
    monkeypatch.setattr("polylens.modeling.vision.checkpoint", lambda call, *args, **_: call(*args))
    assert_same(found, direct(micro_batches, 2, lora=lora))


def test_a_size_below_one_is_refused():
    with pytest.raises(InputError, match="vision_chunk_size is 0; it must be at least 1"):
        GradientCacheConfig(vision_chunk_size=0)
    with pytest.raises(InputError, match="vision_chunk_size is -1; it must be at least 1"):
        load_checkpoint("minicpmv", "tiny", vision_chunk_size=-1)
    with pytest.raises(InputError, match="vision_chunk_size is 0, it must be at least 1"):
        EncodeOptions(vision_chunk_size=0)


def test_a_model_that_makes_no_chunks_is_named(monkeypatch):
    monkeypatch.delattr(MiniCPMVModel, "vision_chunk_size")
    with pytest.raises(InputError, match="models of plugin 'minicpmv' see all crops of a micro-batch at once"):
        load_checkpoint("minicpmv", "tiny", vision_chunk_size=4)


def test_training_and_encoding_in_chunks(tmp_path, monkeypatch):
    pairs, store = write_toy(tmp_path / "toy")
    sizes = watched_calls(monkeypatch)
    for name, more in (("whole", []), ("chunks", ["--vision-chunk-size", "3"])):
        sizes.clear()
        train = ["train", "--model-plugin", "minicpmv", "--model", "tiny", "--train", str(pairs)]
        train += ["--documents", str(store), "--output-dir", str(tmp_path / name), "--max-steps", "2"]
        train += ["--per-device-train-batch-size", "6", "--micro-batch-size", "6", "--disable-tqdm", "true"]
        assert main([*train, *more]) == 0
        encode = ["encode", "--model", str(tmp_path / "whole"), "--documents", str(store), "--num-workers", "0"]
        assert main([*encode, "--output", str(tmp_path / f"{name}.vectors"), *more]) == 0
        assert (max(sizes) > 3) == (name == "whole")
    whole, chunks = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "chunks"))
    assert_same(chunks, whole)
    vectors = [VectorStore(tmp_path / f"{name}.vectors") for name in ("whole", "chunks")]
    torch.testing.assert_close(*(store.rows(0, len(store)) for store in vectors))


def watched_calls(monkeypatch) -> list[int]:
    """The number of crops of every call of the tower."""
    sizes: list[int] = []
    forward = VisionTower.forward

    def watched(tower, crops):
        sizes.append(len(crops))
        return forward(tower, crops)

    monkeypatch.setattr(VisionTower, "forward", watched)
    return sizes
