"""Merging an adapter gives what peft gives, bit for bit, in a folder that is complete or not there."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from support import lock_held
from torch import nn

from polylens.config.card import ModelCard
from polylens.config.run import LoraSettings
from polylens.engine import locks
from polylens.engine.loading import load_checkpoint
from polylens.engine.merge import merge_adapter
from polylens.engine.saving import save_model_folder
from polylens.engine.trainable import choose_trained
from polylens.errors import InputError
from polylens.objectives.contrastive import Contrastive

LAYERS = ["q_proj", "down_proj", "qkv"]
KINDS = {
    "lora": {},
    "rank-stabilised": {"use_rslora": True, "lora_alpha": 5, "rank_pattern": {"down_proj": 3}},
    "dora": {"use_dora": True},
    "whole modules": {"modules_to_save": ["resampler", "embed_tokens"]},
    "dora and whole modules": {"use_dora": True, "modules_to_save": ["vpm.norm"]},
    "embeddings": {"target_modules": ["embed_tokens", "q_proj"]},
}


def base_folder(tiny, folder: Path, dtype: torch.dtype = torch.float32, shard: str = "300KB") -> Path:
    """The tiny model as a folder of several files."""
    model = copy.deepcopy(tiny.model).to(dtype)
    model.config.dtype = dtype
    save_model_folder(tiny, folder, tiny.card)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size=shard)
    return folder


def shake(model: nn.Module) -> None:
    """Other weights wherever training would change them."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += torch.randn(parameter.shape, generator=generator).to(parameter) / 8


def peft_adapter(base: Path, folder: Path, **options) -> Path:
    """An adapter that peft itself wrote."""
    model = load_checkpoint(None, str(base)).model
    adapted = get_peft_model(model, LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": LAYERS, **options}))
    shake(adapted)
    adapted.save_pretrained(folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": str(base)}))
    return folder


def merged_by_peft(base: Path, adapter: Path, dtype: str = "auto") -> dict[str, torch.Tensor]:
    model = load_checkpoint(None, str(base), dtype=dtype).model
    return PeftModel.from_pretrained(model, str(adapter)).merge_and_unload().state_dict()


def stored(folder: Path) -> dict[str, torch.Tensor]:
    """All weights of a folder."""
    return {
        name: value for path in sorted(folder.glob("model*.safetensors")) for name, value in load_file(path).items()
    }


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype, name
        assert torch.equal(found[name], value), name


@pytest.fixture(scope="module")
def base(tiny, tmp_path_factory) -> Path:
    return base_folder(tiny, tmp_path_factory.mktemp("base"))


@pytest.mark.parametrize("kind", KINDS)
def test_the_result_is_that_of_peft(base, tmp_path, kind):
    adapter = peft_adapter(base, tmp_path / "adapter", **KINDS[kind])
    said = merge_adapter(adapter, tmp_path / "out", plugin="minicpmv")
    expected = merged_by_peft(base, adapter)
    assert not all(torch.equal(value, stored(base)[name]) for name, value in expected.items()), "nothing was adapted"
    assert_same(stored(tmp_path / "out"), expected)
    assert said.parameters == sum(value.numel() for value in expected.values())


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_in_every_type(tiny, tmp_path, dtype, dora):
    base = base_folder(tiny, tmp_path / "base", getattr(torch, dtype))
    adapter = peft_adapter(base, tmp_path / "adapter", use_dora=dora, modules_to_save=["ln_post"])
    merge_adapter(adapter, tmp_path / "out", plugin="minicpmv")
    assert_same(stored(tmp_path / "out"), merged_by_peft(base, adapter))


@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
def test_cast_to_another_type(base, tmp_path, dtype):
    adapter = peft_adapter(base, tmp_path / "adapter", modules_to_save=["resampler"])
    merge_adapter(adapter, tmp_path / "out", plugin="minicpmv", dtype=dtype)
    assert_same(stored(tmp_path / "out"), merged_by_peft(base, adapter, dtype))
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config.get("dtype", config.get("torch_dtype")) == dtype
    assert load_checkpoint(None, str(tmp_path / "out")).model.dtype == getattr(torch, dtype)


def test_the_folder_is_complete_and_its_files_are_those_of_the_base(base, tmp_path):
    adapter = peft_adapter(base, tmp_path / "adapter")
    out = tmp_path / "out"
    merge_adapter(adapter, out, plugin="minicpmv")
    assert {path.name for path in out.iterdir()} == {path.name for path in base.iterdir()}
    assert len(list(out.glob("*.safetensors"))) > 3
    for name in ("model.safetensors.index.json", "config.json"):
        ours, theirs = (json.loads((folder / name).read_text()) for folder in (out, base))
        assert ours.get("weight_map") == theirs.get("weight_map")
    found = load_checkpoint(None, str(out))
    assert (found.card.plugin, found.card.base_model, found.source.adapter) == ("minicpmv", None, None)
    with safe_open(sorted(out.glob("*.safetensors"))[0], "pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_pickled_weights_become_safetensors(base, tmp_path):
    old = tmp_path / "old"
    old.mkdir()
    for path in base.iterdir():
        if path.suffix != ".safetensors" and "index" not in path.name:
            (old / path.name).write_bytes(path.read_bytes())
    torch.save(stored(base), old / "pytorch_model.bin")
    adapter = peft_adapter(base, tmp_path / "adapter")
    merge_adapter(adapter, tmp_path / "out", plugin="minicpmv", base=str(old))
    assert [path.name for path in (tmp_path / "out").glob("*model*")] == ["model.safetensors"]
    assert_same(stored(tmp_path / "out"), merged_by_peft(base, adapter))


@pytest.mark.parametrize("dora", [False, True])
def test_an_adapter_that_polylens_trained_over_a_preset(tiny, tmp_path, dora):
    """The base is drawn again from its seed; what was trained beside the adapter is in the result."""
    made = load_checkpoint("minicpmv", "tiny", seed=5)
    lora = LoraSettings(enable=True, r=2, dora=dora, modules_to_save=["ln_q"])
    choose_trained(made.model, made.family, Contrastive(), ["embed_tokens"], lora)
    shake(made.model)
    card = ModelCard("minicpmv", made.family.name, pooling="last", base_model="tiny", base_seed=5)
    save_model_folder(made, tmp_path / "adapter", card, parameters={"log_scale": torch.ones(1)})
    said = merge_adapter(tmp_path / "adapter", tmp_path / "out")
    found = load_checkpoint(None, str(tmp_path / "out"))
    assert_same(found.model.state_dict(), _unloaded(made.model))
    assert found.card.pooling == "last"
    assert "over tiny" in str(said)
    assert load_file(tmp_path / "out" / "objective.safetensors").keys() == {"log_scale"}


def _unloaded(model: nn.Module) -> dict[str, torch.Tensor]:
    """The weights of a model with its adapter merged by peft's layers."""
    from peft.tuners.lora import LoraLayer

    for module in model.modules():
        if isinstance(module, LoraLayer):
            module.merge()
    weights = {name.replace(".base_layer.", "."): value for name, value in model.state_dict().items()}
    return {name: value for name, value in weights.items() if ".lora_" not in name}


def test_nothing_is_overwritten(base, tmp_path):
    adapter = peft_adapter(base, tmp_path / "adapter")
    with pytest.raises(InputError, match="already exists: nothing is ever overwritten"):
        merge_adapter(adapter, base, plugin="minicpmv")


def test_after_an_error_nothing_is_left(base, tmp_path, monkeypatch):
    """A full disk, here at the second file, leaves neither a model nor a part of one."""
    adapter = peft_adapter(base, tmp_path / "adapter")
    from polylens.engine.merge import folder

    written, write = [], folder.write_tensors

    def fails(path, *args):
        if written:
            raise OSError(28, "No space left on device")
        written.append(path)
        write(path, *args)

    monkeypatch.setattr(folder, "write_tensors", fails)
    with pytest.raises(
        InputError, match=r"the disk is full \(\[Errno 28\] No space left on device\): make room; then merge"
    ):
        merge_adapter(adapter, tmp_path / "out", plugin="minicpmv")
    assert written
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter"]


def test_too_little_room_is_said_at_once(base, tmp_path, monkeypatch):
    from collections import namedtuple

    from polylens.engine.merge import folder

    adapter = peft_adapter(base, tmp_path / "adapter")
    monkeypatch.setattr(folder.shutil, "disk_usage", lambda path: namedtuple("U", "total used free")(9, 8, 1))
    with pytest.raises(InputError, match=r"the weights need [\d,]+ bytes, and the disk has 1 left"):
        merge_adapter(adapter, tmp_path / "out", plugin="minicpmv")
    assert not (tmp_path / "out").exists()


def test_what_a_killed_merge_left_is_replaced(base, tmp_path):
    adapter = peft_adapter(base, tmp_path / "adapter")
    left = tmp_path / ".out.tmp"
    left.mkdir()
    (left / "model-00001-of-00009.safetensors").write_bytes(b"half")
    merge_adapter(adapter, tmp_path / "out", plugin="minicpmv")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "out"]
    assert not (tmp_path / "out" / "model-00001-of-00009.safetensors").exists()


def test_two_merges_into_one_place_are_refused(base, tmp_path, monkeypatch):
    """A second one would delete what the first is at work on."""
    monkeypatch.setattr(locks, "_PATIENCE", 0.1)
    adapter = peft_adapter(base, tmp_path / "adapter")
    (tmp_path / ".out.tmp").mkdir()
    with lock_held(tmp_path / ".out.lock") as other:
        with pytest.raises(InputError, match="out: another run is writing into it; wait for its end"):
            merge_adapter(adapter, tmp_path / "out", plugin="minicpmv")
        assert (tmp_path / ".out.tmp").exists()
        other.kill()


def test_a_place_that_cannot_be_is_one_line(base, tmp_path):
    adapter = peft_adapter(base, tmp_path / "adapter")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"the folder .*file cannot be made: File exists"):
        merge_adapter(adapter, tmp_path / "file" / "out", plugin="minicpmv")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda w: {n: v for n, v in w.items() if "layers.1.self_attn.q_proj.lora_B" not in n},
            "lora_B.weight is not in",
        ),
        (
            lambda w: {n: v[:, :3].contiguous() if "lora_A" in n else v for n, v in w.items()},
            r"is \[4, 3\] there, and",
        ),
        (
            lambda w: {**w, "base_model.model.llm.x.lora_A.weight": torch.ones(2, 2)},
            "weights for llm.x, which the base",
        ),
        (
            lambda w: {**w, "base_model.model.llm.lm_head.lora_A.weight": torch.ones(2, 2)},
            "llm.lm_head is not adapted",
        ),
        (
            lambda w: {**w, "base_model.model.vpm.norm.weight": torch.ones(3)},
            r"vpm.norm.weight is \[3\] there and \[64\]",
        ),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused_with_its_base(base, tmp_path, change, said):
    adapter = peft_adapter(base, tmp_path / "adapter")
    path = adapter / "adapter_model.safetensors"
    save_file(change(load_file(path)), path)
    with pytest.raises(InputError, match=f"does not fit its base: .*{said}.*; it was made for '{base}'"):
        merge_adapter(adapter, tmp_path / "out", plugin="minicpmv")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"peft_type": "IA3", "target_modules": ["q_proj"], "feedforward_modules": []},
            "an adapter of type .*IA3; LoRA",
        ),
        ({"lora_bias": True}, "with biases of its own"),
        ({"layer_replication": [[0, 1], [0, 1]]}, "/layer_replication cannot be used: it repeats layers"),
        ({"target_modules": ["nothing_here"]}, "does not fit its base"),
    ],
)
def test_what_cannot_be_merged_is_refused(base, tmp_path, change, said):
    adapter = peft_adapter(base, tmp_path / "adapter")
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(InputError, match=said):
        merge_adapter(adapter, tmp_path / "out", plugin="minicpmv")


def test_a_model_folder_is_no_adapter(base, tmp_path):
    with pytest.raises(InputError, match="is no adapter folder: there is nothing to merge"):
        merge_adapter(base, tmp_path / "out")
