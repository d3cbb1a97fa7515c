"""Model folders: what is written comes back bit for bit, and appears whole."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from polylens.config.run import LoraSettings
from polylens.engine.loading import Checkpoint, load_checkpoint
from polylens.engine.saving import (
    copy_model_folder,
    copy_small_files,
    publish,
    read_objective_parameters,
    remove,
    remove_leftovers,
    save_model_folder,
)
from polylens.engine.trainable import choose_trained
from polylens.engine.weights import reload_weights
from polylens.objectives.contrastive import Contrastive

LORA = LoraSettings(enable=True, r=2)


def shaken(checkpoint: Checkpoint, *, lora: bool = False, tune: list[str] | None = None) -> Checkpoint:
    """The same model with other weights where it is trained, as after training."""
    model = copy.deepcopy(checkpoint.model)
    choose_trained(model, checkpoint.family, Contrastive(), tune, LORA if lora else LoraSettings())
    generator = torch.Generator().manual_seed(8)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += torch.randn(parameter.shape, generator=generator)
    card = replace(checkpoint.card, base_model="tiny", base_seed=checkpoint.seed) if lora else checkpoint.card
    return replace(checkpoint, model=model, card=card)


def same_weights(one: nn.Module, other: nn.Module) -> None:
    a, b = one.state_dict(), other.state_dict()
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


def test_a_model_comes_back_bit_for_bit(tiny, tmp_path):
    made = shaken(tiny)
    save_model_folder(made, tmp_path, replace(made.card, pooling="last"))
    found = load_checkpoint(None, str(tmp_path))
    same_weights(made.model, found.model)
    assert (found.card.pooling, found.seed, found.source.is_preset) == ("last", None, False)
    assert found.tokenizer.get_vocab() == made.tokenizer.get_vocab()


@pytest.mark.parametrize("tune", [None, ["connector", "embed_tokens"]])
def test_an_adapter_comes_back_with_what_was_trained_beside_it(tiny, tmp_path, tune):
    made = shaken(tiny, lora=True, tune=tune)
    save_model_folder(made, tmp_path, made.card)
    assert not (tmp_path / "model.safetensors").exists(), "the base is not copied"
    assert (tmp_path / "beside_adapter.safetensors").exists() == (tune is not None)
    same_weights(made.model, load_checkpoint(None, str(tmp_path)).model)


def test_an_adapter_over_a_preset_knows_the_seed_of_its_base(tiny, tmp_path):
    """Another seed would give another model under the same adapter, without a word."""
    made = shaken(tiny, lora=True)
    save_model_folder(made, tmp_path, made.card)
    found = load_checkpoint(None, str(tmp_path), seed=99)
    assert found.seed == tiny.seed == 1
    same_weights(made.model, found.model)


@pytest.mark.parametrize("lora", [False, True])
def test_a_saved_checkpoint_is_put_back_into_the_model(tiny, tmp_path, lora):
    """As a run does that goes on."""
    made = shaken(tiny, lora=lora, tune=["connector"])
    save_model_folder(made, tmp_path, made.card)
    before = copy.deepcopy(made.model)
    with torch.no_grad():
        for parameter in made.model.parameters():
            if parameter.requires_grad:
                parameter.zero_()
    reload_weights(made.model, made.source, tmp_path)
    same_weights(before, made.model)
    assert [p.requires_grad for p in before.parameters()] == [p.requires_grad for p in made.model.parameters()]


def test_weights_given_apart_are_the_ones_that_are_written(tiny, tmp_path):
    """Under ZeRO-3 the model itself holds none."""
    collected = {name: torch.full_like(value, 0.5) for name, value in tiny.model.state_dict().items()}
    save_model_folder(tiny, tmp_path, tiny.card, state_dict=collected)
    assert all(bool((value == 0.5).all()) for value in load_file(tmp_path / "model.safetensors").values())


def test_the_objective_s_own_values_lie_beside_the_model(tiny, tmp_path):
    save_model_folder(tiny, tmp_path, tiny.card, parameters={"log_scale": torch.tensor([2.5])})
    assert read_objective_parameters(tmp_path)["log_scale"].tolist() == [2.5]
    save_model_folder(tiny, tmp_path / "plain", tiny.card)
    assert read_objective_parameters(tmp_path / "plain") == {}


def test_a_model_is_saved_where_it_came_from(tiny, tmp_path):
    made = shaken(tiny)
    save_model_folder(made, tmp_path, made.card)
    found = load_checkpoint(None, str(tmp_path))
    with torch.no_grad():
        found.model.get_input_embeddings().weight += 1
    save_model_folder(found, tmp_path, found.card)
    same_weights(found.model, load_checkpoint(None, str(tmp_path)).model)


def test_small_files_are_copied_as_they_are(tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    kept = {"tokenizer.json": "{}", "merges.txt": "a b", "modeling_remote.py": "raise SystemExit", "vocab.model": "x"}
    left = ("config.json", "adapter_config.json", "polylens.json", "model.safetensors", "pytorch_model.bin", ".hidden")
    left += ("model.safetensors.index.json", "weights.gguf", "run.yaml", "metrics.jsonl", "quarantine.unfit.jsonl")
    left += ("trainer_state.json",)
    for name, text in (kept | dict.fromkeys(left, "no")).items():
        (source / name).write_text(text)
    (source / "subfolder").mkdir()
    with (source / "large.txt").open("wb") as file:
        file.truncate(64 * 2**20 + 1)
    copy_small_files(source, target)
    assert {path.name: path.read_text() for path in target.iterdir()} == kept


def test_the_model_is_copied_out_of_a_checkpoint_without_its_training_state(tmp_path):
    source, target = tmp_path / "checkpoint-4", tmp_path / "run"
    source.mkdir()
    model = {"config.json", "model.safetensors", "polylens.json", "tokenizer.json"}
    state = {"optimizer.pt", "scheduler.pt", "scaler.pt", "rng_state_0.pth", "trainer_state.json", "zero_to_fp32.py"}
    for name in model | state | {"latest"}:
        (source / name).write_text(name)
    (source / "global_step4").mkdir()
    target.mkdir()
    (target / "config.json").write_text("of an earlier run")
    copy_model_folder(source, target)
    assert {path.name: path.read_text() for path in target.iterdir()} == {name: name for name in model}


def test_a_folder_is_published_in_place_of_an_old_one(tmp_path):
    partial, final = tmp_path / ".new.tmp", tmp_path / "new"
    (partial / "deep").mkdir(parents=True)
    (partial / "deep" / "file").write_text("new")
    (final / "old").mkdir(parents=True)
    publish(partial, final)
    assert [path.name for path in tmp_path.iterdir()] == ["new"]
    assert [str(path.relative_to(final)) for path in sorted(final.rglob("*"))] == ["deep", "deep/file"]


def test_what_a_killed_run_left_is_deleted_and_what_it_was_replacing_comes_back(tmp_path):
    names = [".checkpoint-1.old.tmp", ".checkpoint-2.tmp", ".checkpoint-2.old.tmp", ".model.tmp", "checkpoint-3"]
    names += [".checkpoint-3.old.tmp", ".checkpoint-3.tmp", ".of the user.tmp"]
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    remove_leftovers(tmp_path)
    found = {path.name: (path / "file").read_text() for path in tmp_path.iterdir()}
    assert found == {
        "checkpoint-2": ".checkpoint-2.old.tmp",
        "checkpoint-3": "checkpoint-3",
        ".of the user.tmp": ".of the user.tmp",
    }


def test_half_of_a_copied_model_is_no_model(tmp_path, monkeypatch):
    """It would load, with weights of one run and configuration of another."""
    source, target = tmp_path / "source", tmp_path / "target"
    for folder in (source, target):
        folder.mkdir()
        for name in ("config.json", "model.safetensors", "polylens.json", "tokenizer.json"):
            (folder / name).write_text(folder.name)
    copied = []

    def two_files(path, partial):
        if len(copied) == 2:
            raise KeyboardInterrupt
        copied.append(path.name)

    monkeypatch.setattr("shutil.copyfile", two_files)
    with pytest.raises(KeyboardInterrupt):
        copy_model_folder(source, target)
    assert copied == ["model.safetensors", "tokenizer.json"]
    assert sorted(path.name for path in target.iterdir()) == copied


def test_removing_what_is_or_is_not_there(tmp_path):
    (tmp_path / "folder" / "deep").mkdir(parents=True)
    (tmp_path / "file").write_text("x")
    for name in ("folder", "file", "nothing"):
        remove(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_no_file_has_a_name_of_its_own_making(tiny, tmp_path):
    """A saved model holds what the family's ecosystem knows, and the card."""
    save_model_folder(tiny, tmp_path, tiny.card)
    names = {path.name for path in tmp_path.iterdir()}
    assert {"config.json", "model.safetensors", "polylens.json", "tokenizer.json"} <= names
    assert not [name for name in names if name.endswith(".tmp")]
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "minicpmv"
    assert Path(tmp_path / "model.safetensors").stat().st_size > 4 * sum(p.numel() for p in tiny.model.parameters())
