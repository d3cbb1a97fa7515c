"""The same weights and inputs as the original program, compared with what it computed (float32, CPU)."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from polylens.contracts import IGNORE_INDEX, Batch
from polylens.engine.training_module import TrainingModule
from polylens.engine.weights import put_adapter
from polylens.modeling.preprocessing import BicubicPreprocessor, normalise
from polylens.objectives.lm import LanguageModelling, LmOptions
from polylens_minicpmv.family import MINICPMV_2_0
from polylens_minicpmv.models.base import MEAN, STD
from polylens_minicpmv.models.minicpmv2 import MiniCPMV2, MiniCPMV2Config
from polylens_minicpmv.slicing import MiniCPMVSlicer

NEAR = {"rtol": 1e-5, "atol": 1e-5}
IMAGES = ("a.png", "b.png", "c.png")


def crops(folder: Path) -> list[list[torch.Tensor]]:
    slicer, preprocessor = MiniCPMVSlicer(56, 14, 4, 4), BicubicPreprocessor()
    rows = []
    for name in IMAGES:
        image = Image.open(folder / "images" / name).convert("RGB")
        rows.append(preprocessor.pixels(image, slicer.slice(image.size)))
    return rows


@pytest.fixture(scope="module")
def stored(original):
    return torch.load(original / "batch.pt", weights_only=True)


@pytest.fixture(scope="module")
def expected(original):
    return torch.load(original / "outputs.pt", weights_only=True)


@pytest.fixture(scope="module")
def batch(original, stored) -> Batch:
    rows = crops(original)
    visual = torch.zeros_like(stored["attention_mask"])
    for row, bounds in enumerate(stored["image_bound"]):
        for start, end in bounds.tolist():
            visual[row, start:end] = True
    owners = [row for row, own in enumerate(rows) for _ in own]
    return Batch(
        ids=list(IMAGES),
        input_ids=stored["input_ids"].long(),
        attention_mask=stored["attention_mask"],
        labels=stored["labels"].long(),
        visual_mask=visual,
        pixels=[crop for own in rows for crop in own],
        crop_rows=torch.tensor(owners),
        crop_tokens=torch.full((len(owners),), 4),
        costs=stored["attention_mask"].sum(1),
    )


@pytest.fixture(scope="module", params=["sdpa", "eager"])
def model(request, original, original_config):
    config = MiniCPMV2Config(**original_config)
    return MiniCPMV2.from_pretrained(original, config=config, attn_implementation=request.param).eval()


@pytest.fixture(scope="module")
def outputs(model, batch):
    first = {}
    handle = model.llm.model.layers[0].register_forward_pre_hook(lambda _, args: first.update(embeddings=args[0]))
    with torch.no_grad():
        result = model(batch, outputs={"vision", "connector", "hidden", "logits"})
    handle.remove()
    return result, first["embeddings"]


def test_pixels(original, stored):
    theirs = [crop for row in stored["pixel_values"] for crop in row]
    ours = [normalise(crop, MEAN, STD, torch.float32) for row in crops(original) for crop in row]
    assert all(torch.equal(own, their) for own, their in zip(ours, theirs, strict=True))


def test_vision_features(outputs, expected):
    for own, their in zip(outputs[0].vision, expected["vision_features"], strict=True):
        torch.testing.assert_close(own, their[0], **NEAR)


def test_visual_tokens(outputs, expected):
    theirs = torch.cat(expected["resampler_outputs"]).flatten(0, 1)
    torch.testing.assert_close(outputs[0].connector, theirs, **NEAR)


def test_input_embeddings(outputs, expected, stored):
    mask = stored["attention_mask"]
    torch.testing.assert_close(outputs[1][mask], expected["inputs_embeds"][mask], **NEAR)


def test_hidden_states(outputs, expected, stored):
    mask = stored["attention_mask"]
    torch.testing.assert_close(outputs[0].hidden[mask], expected["llm_hidden_states"][-1][mask], rtol=1e-5, atol=1e-4)


def test_logits_and_loss(outputs, expected, stored):
    mask = stored["attention_mask"]
    logits = outputs[0].logits.unflatten(0, mask.shape)
    torch.testing.assert_close(logits[mask], expected["logits"][mask], rtol=1e-5, atol=1e-4)
    shifted = stored["labels"].long()  # by the original itself
    loss = F.cross_entropy(logits.flatten(0, 1), shifted.flatten())
    torch.testing.assert_close(loss, expected["loss"], rtol=1e-5, atol=0)


@torch.no_grad()
def test_the_objective_gives_that_loss(model, batch, stored, expected):
    """Three positions at a time; the original's labels are shifted already, ours are not."""
    labels = torch.full_like(batch.labels, IGNORE_INDEX)
    labels[:, 1:] = stored["labels"][:, :-1]
    given = replace(batch, labels=labels)
    objective = LanguageModelling(LmOptions(logit_positions=3))
    loss = TrainingModule(model, objective)(given, objective.normalisers(given)).additive
    torch.testing.assert_close(loss.float(), expected["loss"], rtol=1e-5, atol=0)


def test_an_adapter_of_the_original_fine_tuning(original, original_config, batch, stored):
    """Low-rank layers and the whole modules beside them give the logits that the original computed with them."""
    model = MiniCPMV2.from_pretrained(original, config=MiniCPMV2Config(**original_config))
    put_adapter(model, MINICPMV_2_0, original / "lora_era1")
    model.eval()
    with torch.no_grad():
        logits = model(batch, outputs={"logits"}).logits.unflatten(0, stored["attention_mask"].shape)
    mask = stored["attention_mask"]
    expected = torch.load(original / "lora_era1" / "outputs.pt", weights_only=True)["logits"]
    torch.testing.assert_close(logits[mask], expected[mask], rtol=1e-5, atol=1e-4)
