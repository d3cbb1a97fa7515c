"""The tiny model of the original: one training step of five samples, from pictures and texts on."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from polylens.engine.loading import load_checkpoint
from polylens.engine.training_module import TrainingModule
from polylens.objectives.lm import LanguageModelling, LmOptions

NEAR = {"rtol": 1e-5, "atol": 1e-5}
LM_LOSS = 6.533648


def test_tokens_and_targets(original, batch):
    """Of the batch as the model sees it, pictures spliced in."""
    given = original.tensors
    mask = given["attention_mask_out"].bool()
    assert torch.equal(batch.attention_mask, mask)
    assert torch.equal(batch.labels[mask], given["labels_out"].long()[mask])


@torch.no_grad()
def test_features_visual_tokens_and_logits(original, found, batch):
    given, model = original.tensors, found.model
    made = model(batch, outputs={"vision", "connector", "logits"})
    torch.testing.assert_close(torch.stack(made.vision), given["vision_features"], **NEAR)
    torch.testing.assert_close(made.connector, given["projector_out"].flatten(0, 1), **NEAR)
    embedded = model._embeddings(batch, made.connector)
    mask = batch.attention_mask
    torch.testing.assert_close(embedded[mask], given["inputs_embeds"][mask], **NEAR)
    logits = made.logits.unflatten(0, mask.shape)
    taught = batch.labels[:, 1:] != -100
    torch.testing.assert_close(logits[:, :-1][taught], given["logits_supervised"], rtol=1e-5, atol=1e-4)
    loss = F.cross_entropy(logits[:, :-1][taught], batch.labels[:, 1:][taught])
    assert loss.item() == pytest.approx(LM_LOSS, abs=1e-5)


def test_the_loss_of_the_objective_and_its_gradients(original, found, batch):
    """Those that are given are of the sum with two further terms, which reach projector and embeddings alone."""
    objective, model = LanguageModelling(LmOptions(logit_positions=7)), found.model
    model.zero_grad()
    loss = TrainingModule(model, objective)(batch, objective.normalisers(batch)).additive
    assert loss.item() == pytest.approx(LM_LOSS, abs=1e-5)
    loss.backward()
    for name in ("model.layers.0.self_attn.q_proj.weight", "model.norm.weight"):
        found_here = model.get_parameter(f"language_model.{name}").grad
        torch.testing.assert_close(found_here, original.tensors[f"grad.{name}"], rtol=1e-4, atol=1e-5)


def test_a_checkpoint_of_the_original_is_written_back_unchanged(original, found, tmp_path):
    found.model.save_pretrained(tmp_path)
    theirs = load_file(original.folder / "tiny-llava" / "model.safetensors")
    ours = load_file(tmp_path / "model.safetensors")
    buffers = {name for name in theirs if name.endswith("inv_freq")}  # older transformers stored them
    assert ours.keys() == theirs.keys() - buffers
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    said = json.loads((original.folder / "tiny-llava" / "config.json").read_text(encoding="utf-8"))
    written = found.model.config.to_dict()
    assert {name: written[name] for name in said} == {**said, "_name_or_path": written.get("_name_or_path")}


@torch.no_grad()
def test_transformers_layout_holds_the_same_model(original, found, batch, tmp_path):
    """Its vocabulary has 64 rows more, among them the picture's: logits agree on the others."""
    for source in ("tiny-llava", "tiny-llava-hf"):
        for path in (original.folder / source).iterdir():
            shutil.copyfile(path, tmp_path / path.name)
    other = load_checkpoint("llava_remgcl", str(tmp_path)).model.eval()
    positions = batch.labels != -100
    ours, theirs = (
        model(batch, outputs={"logits"}, logit_positions=positions).logits for model in (found.model, other)
    )
    torch.testing.assert_close(theirs[:, :640], ours, rtol=1e-5, atol=1e-5)
    assert theirs.shape[1] == 704
