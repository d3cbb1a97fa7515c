"""The same weights and inputs as the original program, compared with what it computed (float32, CPU)."""

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from polylens.engine.training_module import TrainingModule
from polylens.objectives.lm import LanguageModelling, LmOptions

NEAR = {"rtol": 1e-5, "atol": 1e-5}
LOGITS = {"rtol": 1e-5, "atol": 1e-4}


@torch.no_grad()
def test_pixels_features_and_visual_tokens(case):
    batch, given = case.training_batch(), case.tensors
    made = case.model(batch, outputs={"vision", "connector"})
    rows = batch.crop_rows
    torch.testing.assert_close(torch.stack(made.vision), given["out.vision_features"][rows], **NEAR)
    torch.testing.assert_close(made.connector, given["out.projected"][rows].flatten(0, 1), **NEAR)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["right", "left", "truncated"])
def test_embeddings_logits_and_loss(case, kind):
    given, limit = case.tensors, case.meta["truncated_to"] if kind == "truncated" else None
    batch = case.training_batch("left" if kind == "left" else "right", limit)
    mask = given[f"{kind}.attention_mask"].bool()
    assert torch.equal(batch.attention_mask, mask)
    assert torch.equal(batch.labels[mask], given[f"{kind}.labels"][mask])
    embedded = {}
    layers = case.model.language_model.base_model
    handle = layers.register_forward_pre_hook(lambda _, args, named: embedded.update(named), with_kwargs=True)
    logits = case.model(batch, outputs={"logits"}).logits.unflatten(0, mask.shape)
    handle.remove()
    torch.testing.assert_close(embedded["inputs_embeds"][mask], given[f"{kind}.inputs_embeds"][mask], **NEAR)
    torch.testing.assert_close(logits[mask], given[f"{kind}.logits"][mask], **LOGITS)
    loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), batch.labels[:, 1:].flatten())
    torch.testing.assert_close(loss, given[f"{kind}.loss"][0], rtol=1e-5, atol=0)


def test_gradients_of_the_objective(case):
    """Every gradient of the connector, and the norm of every other one; the loss is that of the objective ``lm``."""
    model, batch, given = case.model, case.training_batch(), case.tensors
    objective = LanguageModelling(LmOptions(logit_positions=7))
    model.zero_grad()
    loss = TrainingModule(model, objective)(batch, objective.normalisers(batch)).additive
    loss.backward()
    torch.testing.assert_close(loss.float(), given["right.loss"][0], rtol=1e-5, atol=0)
    weights = dict(model.named_parameters())
    for name, value in given.items():
        if name.startswith("grad."):
            torch.testing.assert_close(weights[name.removeprefix("grad.")].grad, value, rtol=1e-4, atol=1e-5)
    norms = {name: weights[name].grad.norm().item() for name in case.meta["grad_norms"] if name in weights}
    expected = {name: case.meta["grad_norms"][name] for name in norms}
    assert len(norms) > 20
    assert norms == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_greedy_answers(case):
    given = case.tensors
    ids, expected = given["gen.input_ids"], given["gen.output_ids"][0]
    batch = case.batch(ids, torch.ones_like(ids), ids, given["gen.images"], side="left")
    found = case.model.generate(batch, do_sample=False, max_new_tokens=len(expected), pad_token_id=0)[0]
    assert torch.equal(found, expected[: len(found)])
    assert len(found) == len(expected)


def test_a_checkpoint_of_the_original_is_written_back_unchanged(case, tmp_path):
    case.model.save_pretrained(tmp_path)
    theirs, ours = load_file(case.folder / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    tied = {"language_model.lm_head.weight"} if "tied" in case.meta else set()
    assert ours.keys() == theirs.keys() - tied
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    config = case.model.config.to_dict()
    assert {name: config[name] for name in case.config} == case.config
