"""Model folders that cannot be used, or must not be."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from polylens.config.run import LoraSettings
from polylens.engine.loading import load_checkpoint
from polylens.engine.saving import save_model_folder
from polylens.engine.trainable import choose_trained
from polylens.errors import InputError
from polylens.objectives.contrastive import Contrastive

WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def saved(tiny, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    save_model_folder(tiny, folder, tiny.card)
    return folder


@pytest.fixture
def folder(saved, tmp_path) -> Path:
    """A model folder to break."""
    return Path(shutil.copytree(saved, tmp_path / "model"))


class Trap:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "adapter_model.bin"])
def test_code_in_a_pickle_is_refused_and_not_run(folder, tmp_path, name):
    sprung = tmp_path / "sprung"
    torch.save({"llm.lm_head.weight": Trap(sprung)}, folder / name)
    torch.load(folder / name, weights_only=False)
    sprung.rmdir()  # so the trap works
    (folder / WEIGHTS).unlink()
    if name.startswith("adapter"):
        config = {"peft_type": "LORA", "base_model_name_or_path": "tiny", "target_modules": ["q_proj"]}
        (folder / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=f"^{folder}(/{name})?: the weights cannot be read"):
        load_checkpoint("minicpmv", str(folder))
    assert not sprung.exists()


def test_plain_tensors_in_a_pickle_are_read(tiny, folder):
    """The layout of old checkpoints."""
    torch.save(load_file(folder / WEIGHTS), folder / "pytorch_model.bin")
    (folder / WEIGHTS).unlink()
    found = load_checkpoint(None, str(folder)).model.state_dict()
    assert all(torch.equal(found[name], value) for name, value in tiny.model.state_dict().items())


def test_remote_code_of_a_folder_is_not_run(folder, tmp_path):
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModel": "modeling_remote.Remote", "AutoConfig": "modeling_remote.Config"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "modeling_remote.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'sprung')!r})\n")
    load_checkpoint("minicpmv", str(folder))
    assert not (tmp_path / "sprung").exists()


def test_missing_weights_are_named(folder):
    weights = load_file(folder / WEIGHTS)
    del weights["resampler.query"], weights["llm.model.norm.weight"]
    save_file(weights, folder / WEIGHTS, {"format": "pt"})
    with pytest.raises(InputError, match=r"2 missing keys .*, such as llm\.model\.norm\.weight, resampler\.query"):
        load_checkpoint(None, str(folder))


def test_weights_of_another_shape_are_named(folder):
    weights = load_file(folder / WEIGHTS)
    weights["resampler.query"] = weights["resampler.query"][:-1].contiguous()
    save_file(weights, folder / WEIGHTS, {"format": "pt"})
    with pytest.raises(InputError) as error:
        load_checkpoint(None, str(folder))
    assert str(error.value).startswith(f"{folder}: 1 mismatched keys")
    assert str(error.value).endswith("such as resampler.query [15, 128] [16, 128]")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"use_dora": True}, "missing keys, such as .*lora_magnitude_vector"),
        ({"lora_bias": True}, "missing keys, such as .*bias"),
        ({"target_modules": ["q_proj"]}, "unexpected keys, such as"),
        ({"r": 3}, "does not fit its base"),
    ],
)
def test_an_adapter_whose_weights_are_not_those_it_says_is_refused(tmp_path, tiny, change, message):
    """transformers would draw what is missing at random, and leave out what is too much."""
    made = load_checkpoint("minicpmv", "tiny", seed=1)
    choose_trained(made.model, made.family, Contrastive(), None, LoraSettings(enable=True, r=2))
    save_model_folder(made, tmp_path, replace(made.card, base_model="tiny", base_seed=1))
    load_checkpoint(None, str(tmp_path))
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(InputError, match=message):
        load_checkpoint(None, str(tmp_path))


@pytest.mark.parametrize("damage", ["cut short", "no tensors", "gone"])
def test_weights_that_cannot_be_read_are_one_line(folder, damage):
    path = folder / WEIGHTS
    if damage == "cut short":
        os.truncate(path, path.stat().st_size // 2)
    elif damage == "no tensors":
        path.write_bytes(b"not a safetensors file")
    else:
        path.unlink()
    with pytest.raises(InputError, match=r"the weights cannot be read: [^\n]+$"):
        load_checkpoint(None, str(folder))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("config.json", {"attention_dropout": [0.0]}, "does not describe a model of family 'minicpmv-2.0'"),
        ("config.json", {"num_attention_heads": 0}, "does not describe a model of family 'minicpmv-2.0'"),
        ("config.json", {"num_hidden_layers": 10**9}, "/num_hidden_layers is 1000000000; at most 10000"),
        ("config.json", {"polylens_vision": {"num_hidden_layers": 10**9}}, "/polylens_vision/num_hidden_layers is"),
        ("config.json", {"vocab_size": 10**11}, "config.json describes 2[0-9]+ weights, and the files hold at most"),
        ("config.json", {"hidden_size": "x"}, "does not describe a model of family 'minicpmv-2.0'"),
        ("tokenizer.json", {"added_tokens": "x"}, "the tokenizer cannot be read"),
        ("tokenizer.json", {"model": {"type": "?"}}, "the tokenizer cannot be read: Exception"),
        ("tokenizer_config.json", {"bos_token": 5}, "the tokenizer cannot be read"),
    ],
)
def test_a_file_whose_values_make_no_sense_is_refused(folder, name, change, message):
    path = folder / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(InputError, match=f"{message}[^\n]*$"):
        load_checkpoint(None, str(folder))


def test_an_adapter_of_another_model_is_refused(tmp_path, tiny):
    config = {"peft_type": "LORA", "base_model_name_or_path": "tiny", "r": 2, "target_modules": ["q_proj"]}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    name = "base_model.model.llm.model.layers.0.self_attn.q_proj.lora_A.weight"
    save_file({name: torch.zeros(2, 7)}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(InputError, match="the adapter does not fit its base"):
        load_checkpoint("minicpmv", str(tmp_path))


def test_weights_beside_an_adapter_must_have_a_place(tmp_path, tiny):
    made = load_checkpoint("minicpmv", "tiny")
    choose_trained(made.model, made.family, Contrastive(), None, LoraSettings(enable=True, r=2))
    save_model_folder(made, tmp_path, replace(made.card, base_model="tiny"))
    save_file({"resampler.unknown": torch.zeros(2)}, tmp_path / "beside_adapter.safetensors")
    with pytest.raises(InputError, match=r"it has weights for resampler\.unknown, which the base does not have"):
        load_checkpoint(None, str(tmp_path))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "int8"}, "dtype 'int8' is none of auto, float32"),
        ({"dtype": "floot32"}, "dtype 'floot32' is none of"),
        ({"options": {"max_slice_num": 3}}, r"no option 'max_slice_num' \(did you mean 'max_slice_nums'\?\)"),
        ({"options": {"max_slice_nums": 0}}, "max_slice_nums is 0; it must be at least 1"),
    ],
)
def test_a_wrong_option_is_named(options, message):
    with pytest.raises(InputError, match=message):
        load_checkpoint("minicpmv", "tiny", **options)


def test_a_folder_without_a_card_needs_a_plugin(folder):
    (folder / "polylens.json").unlink()
    with pytest.raises(InputError, match=r"has no polylens\.json, .*which plugin knows it: --model-plugin NAME"):
        load_checkpoint(None, str(folder))
    assert load_checkpoint("minicpmv", str(folder)).card.pooling == "wmean"


def test_the_options_of_the_card_hold_unless_others_are_given(folder):
    card = json.loads((folder / "polylens.json").read_text())
    (folder / "polylens.json").write_text(json.dumps(card | {"options": {"max_slice_nums": 2}}))
    assert load_checkpoint(None, str(folder)).options.max_slice_nums == 2
    given = load_checkpoint(None, str(folder), options={"max_slice_nums": 3})
    assert (given.options.max_slice_nums, given.card.options["max_slice_nums"]) == (3, 3)


def test_a_tokenizer_without_the_image_tokens_is_refused(folder):
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    tokenizer["added_tokens"] = [t for t in tokenizer["added_tokens"] if t["content"] not in ("<image>", "</image>")]
    for token in ("<image>", "</image>"):
        tokenizer["model"]["vocab"].pop(token, None)
    path.write_text(json.dumps(tokenizer), encoding="utf-8")
    with pytest.raises(InputError, match=r"<image>"):
        load_checkpoint(None, str(folder))


def test_random_weights_are_those_of_their_seed(tiny):
    same, other = (load_checkpoint("minicpmv", "tiny", seed=seed).model for seed in (1, 2))
    assert torch.equal(same.get_input_embeddings().weight, tiny.model.get_input_embeddings().weight)
    assert not torch.equal(other.get_input_embeddings().weight, tiny.model.get_input_embeddings().weight)


def test_loading_draws_no_random_number():
    before = torch.get_rng_state()
    load_checkpoint("minicpmv", "tiny", seed=3)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
def test_weights_take_the_type_that_is_asked_for(folder, dtype):
    model = load_checkpoint(None, str(folder), dtype=dtype).model
    assert {parameter.dtype for parameter in model.parameters()} == {getattr(torch, dtype)}
    assert model.config.dtype == getattr(torch, dtype)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("spda", r"attn_implementation is 'spda' \(did you mean 'sdpa'\?\); it may be sdpa, eager, flash_attention_2"),
        ("someone/kernel", "attn_implementation is 'someone/kernel'; it may be"),
    ],
)
def test_attention_that_would_come_from_elsewhere_is_refused(name, message):
    with pytest.raises(InputError, match=message):
        load_checkpoint("minicpmv", "tiny", attn_implementation=name)
