"""Adapters that the original fine-tuning programs wrote, in both of their layouts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file

import polylens
from polylens.engine.loading import Checkpoint, load_checkpoint
from polylens.engine.saving import save_model_folder
from polylens.errors import InputError

BESIDE = "vpm_resampler_embedtokens.pt"
PREFIX = "base_model.model."


@pytest.fixture(scope="module")
def base(original, original_config, tmp_path_factory) -> Path:
    """The original's model folder, with a tokenizer and the size of its tower."""
    folder = tmp_path_factory.mktemp("base")
    shutil.copy(original / "model.safetensors", folder)
    shutil.copytree(original / "tokenizer", folder, dirs_exist_ok=True)
    (folder / "config.json").write_text(json.dumps(original_config), encoding="utf-8")
    return folder


@pytest.fixture
def era1(original, tmp_path) -> Path:
    """Low-rank layers in peft's files, whole modules in a file beside them."""
    return Path(shutil.copytree(original / "lora_era1", tmp_path / "era1"))


@pytest.fixture
def era2(era1) -> Path:
    """The same weights as later versions wrote them: all of them in peft's file."""
    config = json.loads((era1 / "adapter_config.json").read_text())
    config |= {"modules_to_save": ["embed_tokens", "resampler", "vpm"], "task_type": None}
    (era1 / "adapter_config.json").write_text(json.dumps(config))
    whole = torch.load(era1 / BESIDE, weights_only=True)
    weights = load_file(era1 / "adapter_model.safetensors") | {name: value.clone() for name, value in whole.items()}
    save_file(weights, era1 / "adapter_model.safetensors")
    (era1 / BESIDE).unlink()
    return era1


def assert_loaded(found: Checkpoint, original: Path) -> None:
    """Every weight of both files is in its place."""
    own = {name.replace(".base_layer.", "."): value for name, value in found.model.state_dict().items()}
    for name, value in torch.load(original / "lora_era1" / BESIDE, weights_only=True).items():
        assert torch.equal(own[name.removeprefix(PREFIX)], value), name
    for name, value in load_file(original / "lora_era1" / "adapter_model.safetensors").items():
        placed = name.removeprefix(PREFIX).replace(".weight", ".default.weight")
        assert torch.equal(own[placed], value), name


@pytest.mark.parametrize("era", ["era1", "era2"])
def test_both_layouts_load_whole(request, original, base, era):
    found = load_checkpoint("minicpmv", str(request.getfixturevalue(era)), base=str(base))
    assert_loaded(found, original)
    assert len(found.beside) == len(torch.load(original / "lora_era1" / BESIDE, weights_only=True))


def test_what_was_loaded_is_saved_again(original, base, era2, tmp_path):
    """Trained on, an adapter must not lose the modules that came with it."""
    found = load_checkpoint("minicpmv", str(era2), base=str(base))
    found.model.requires_grad_(False)
    save_model_folder(found, tmp_path / "again", found.card)
    assert_loaded(load_checkpoint("minicpmv", str(tmp_path / "again"), base=str(base)), original)
    assert (
        load_file(tmp_path / "again" / "adapter_model.safetensors").keys()
        == load_file(era2 / "adapter_model.safetensors").keys()
    )


def test_a_file_of_the_oldest_form_is_read(original, base, era1):
    """As torch wrote it before version 1.6."""
    whole = torch.load(era1 / BESIDE, weights_only=True)
    torch.save(whole, era1 / BESIDE, _use_new_zipfile_serialization=False)
    assert_loaded(load_checkpoint("minicpmv", str(era1), base=str(base)), original)


@pytest.mark.parametrize("write", [lambda path: torch.save({}, path), lambda path: path.write_bytes(b"")])
def test_a_file_without_weights_is_refused(base, era1, write):
    write(era1 / BESIDE)
    with pytest.raises(InputError, match=rf"{BESIDE}: it holds no weights.*use the last checkpoint folder"):
        load_checkpoint("minicpmv", str(era1), base=str(base))


def test_code_in_the_file_is_not_run(base, era1):
    torch.save({"weight": Path("x")}, era1 / BESIDE)
    with pytest.raises(InputError, match=rf"{BESIDE}: the weights cannot be read: UnpicklingError"):
        load_checkpoint("minicpmv", str(era1), base=str(base))


def test_an_adapter_for_another_base_is_refused_and_names_it(original, era1):
    config = json.loads((era1 / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = "openbmb/MiniCPM-V-2"
    (era1 / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"does not fit its base: .*; it was made for 'openbmb/MiniCPM-V-2'"):
        load_checkpoint("minicpmv", str(era1), base="tiny")


@pytest.mark.parametrize("era", ["era1", "era2"])
def test_both_layouts_merge_to_what_they_compute(request, base, era, tmp_path):
    adapter = request.getfixturevalue(era)
    polylens.merge(adapter, tmp_path / "merged", plugin="minicpmv", base=base)
    merged = load_checkpoint("minicpmv", str(tmp_path / "merged")).model.state_dict()
    loaded = load_checkpoint("minicpmv", str(adapter), base=str(base)).model
    for module in loaded.modules():
        if isinstance(module, LoraLayer):
            module.merge()
    expected = {name.replace(".base_layer.", "."): value for name, value in loaded.state_dict().items()}
    assert all(torch.equal(value, expected[name]) for name, value in merged.items())


def test_an_adapter_of_the_original_2_5_loads_whole(golden, tmp_path):
    source = golden / "minicpmv" / "minicpmv25"
    base = Path(shutil.copytree(source / "tokenizer", tmp_path / "base"))
    for name in ("model.safetensors", "config.json"):
        shutil.copy(source / name, base)
    found = load_checkpoint("minicpmv", str(source / "lora_era2"), base=str(base))
    own = {name.replace(".base_layer.", "."): value for name, value in found.model.state_dict().items()}
    for name, value in load_file(source / "lora_era2" / "adapter_model.safetensors").items():
        place = name.removeprefix(PREFIX)
        place = place if place in own else place.replace(".weight", ".default.weight")
        assert torch.equal(own[place], value), name
