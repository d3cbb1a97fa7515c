"""Folders of the original's own training, with and without an adapter."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file

import polylens
from polylens.engine.loading import load_checkpoint
from polylens.engine.saving import save_model_folder
from polylens.errors import InputError

PREFIX = "base_model.model."
ADAPTED = "language_model.model.layers.0.self_attn.q_proj"
SMALL = ("config.json", "vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json")


@pytest.fixture
def trained(original, tmp_path) -> Path:
    """The folder that a pretraining run of the original left: three parts, and files of its tokenizer."""
    source, target = original / "train" / "tiny-llava-base-pretrain", tmp_path / "trained"
    for part in ("language_model", "vision_tower", "connector"):
        shutil.copytree(source / part, target / part, copy_function=shutil.copyfile)
    for name in SMALL:
        shutil.copyfile(source / name, target / name)
    for folder in target.iterdir():
        folder.chmod(0o755)
    return target


@pytest.fixture
def expected(original) -> dict[str, torch.Tensor]:
    folder = original / "train" / "tiny-llava-base-pretrain"
    return load_file(folder / "GOLDEN_initial_parameters.safetensors") | load_file(
        folder / "GOLDEN_final_trainable.safetensors"
    )


def test_a_folder_of_parts_loads_and_is_written_flat(trained, expected, tmp_path):
    found = load_checkpoint("tinyllava", str(trained))
    state = found.model.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], value) for name, value in expected.items())
    save_model_folder(found, tmp_path / "flat", found.card)
    flat = load_file(tmp_path / "flat" / "model.safetensors")
    assert flat.keys() == expected.keys()
    again = load_checkpoint(None, str(tmp_path / "flat")).model.state_dict()
    assert all(torch.equal(again[name], value) for name, value in expected.items())


def test_its_logits_are_those_of_the_original(trained, original, phi):
    """On the inputs of another case."""
    run = original / "train" / "tiny-llava-base-pretrain"
    wanted = load_file(run / "GOLDEN_logits_on_phi_siglip_mlp2x_inputs.safetensors")
    batch, model = phi.training_batch(), load_checkpoint("tinyllava", str(trained)).model.eval()
    with torch.no_grad():
        logits = model(batch, outputs={"logits"}).logits.unflatten(0, batch.attention_mask.shape)
    mask = batch.attention_mask
    torch.testing.assert_close(logits[mask], wanted["logits"][mask], rtol=1e-5, atol=1e-4)


@pytest.fixture
def adapter(trained) -> Path:
    """The same with low-rank layers: a base whose names say so, and peft's files in the folder itself."""
    path = trained / "language_model" / "pytorch_model.bin"
    state = torch.load(path, weights_only=True)
    inner = ADAPTED.removeprefix("language_model.")
    for kind in ("weight", "bias"):
        state[f"{inner}.base_layer.{kind}"] = state.pop(f"{inner}.{kind}")
    torch.save(state, path)
    width = state[f"{inner}.base_layer.weight"].shape[0]
    torch.manual_seed(0)
    low = {"A": torch.randn(2, width), "B": torch.randn(width, 2)}
    save_file({f"{PREFIX}{ADAPTED}.lora_{k}.weight": v for k, v in low.items()}, trained / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": [ADAPTED], "task_type": "CAUSAL_LM"}
    (trained / "adapter_config.json").write_text(json.dumps(config))
    return trained


def test_an_adapter_folder_holds_its_own_base(adapter, expected, tmp_path):
    """Nothing in its name says what it is, and ``adapter_config.json`` names no base."""
    found = load_checkpoint("tinyllava", str(adapter))
    state = {name.replace(".base_layer.", "."): value for name, value in found.model.state_dict().items()}
    assert all(torch.equal(state[name], value) for name, value in expected.items())
    (layer,) = [module for module in found.model.modules() if isinstance(module, LoraLayer)]
    layer.merge()
    polylens.merge(adapter, tmp_path / "merged", plugin="tinyllava")
    merged = load_checkpoint("tinyllava", str(tmp_path / "merged")).model.state_dict()
    assert not torch.equal(merged[f"{ADAPTED}.weight"], expected[f"{ADAPTED}.weight"])
    wanted = {name.replace(".base_layer.", "."): value for name, value in found.model.state_dict().items()}
    assert all(torch.equal(value, wanted[name]) for name, value in merged.items())


def test_training_goes_on_over_the_base_of_that_folder(adapter, tmp_path):
    """What is saved names the folder as its base, and finds the parts in it, not its older adapter."""
    found = load_checkpoint("tinyllava", str(adapter))
    found.card.base_model = found.source.base
    layer = f"{ADAPTED}.lora_B.default.weight"
    with torch.no_grad():
        found.model.get_parameter(layer).fill_(2.0)
    save_model_folder(found, tmp_path / "next", found.card)
    again = load_checkpoint(None, str(tmp_path / "next"))
    assert again.source.folder == adapter
    assert bool((again.model.get_parameter(layer) == 2.0).all())


def test_a_part_without_weights_is_named(trained):
    (trained / "connector" / "pytorch_model.bin").unlink()
    with pytest.raises(InputError, match=r"the weights cannot be read"):
        load_checkpoint("tinyllava", str(trained))


def test_names_of_hub_repositories_are_never_looked_up(trained):
    """Neither the language model's nor the tower's; everything is in the file's own sub-configurations."""
    path = trained / "config.json"
    config = json.loads(path.read_text())
    for key in ("llm_model_name_or_path", "tokenizer_name_or_path", "vision_model_name_or_path"):
        config[key] = "nobody/nothing"
    config["text_config"]["_name_or_path"] = "nobody/nothing"
    config["auto_map"] = {"AutoConfig": "configuration.TinyLlavaConfig"}
    path.write_text(json.dumps(config))
    assert (
        load_checkpoint("tinyllava", str(trained)).model.config.to_dict()["llm_model_name_or_path"] == "nobody/nothing"
    )


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"connector_type": "mlp2x_relu"}, r"/connector_type is 'mlp2x_relu'; it may be identity, linear"),
        ({"connector_type": "identity"}, r"features are 24 wide, and the language model is 32 wide"),
        ({"connector_type": "mof_mlp"}, r"'mof_mlp' does not fit the vision tower 'siglip'"),
        ({"connector_type": "linear"}, r"missing keys for family 'tinyllava', such as connector._connector.bias"),
        ({"text_config": {"model_type": "phii"}}, r"/text_config/model_type is 'phii'.*did you mean 'phi'"),
        ({"text_config": None}, r"/text_config is missing"),
        ({"vision_config": {"model_type": "vit"}}, r"/vision_config/model_type is 'vit'; it may be siglip"),
        ({"vision_feature_layer": 9}, r"vision_feature_layer is 9, and the vision tower has 3 layers"),
        ({"image_aspect_ratio": "anyres"}, r"/image_aspect_ratio is 'anyres'"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(trained, change, problem):
    path = trained / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError, match=problem):
        load_checkpoint("tinyllava", str(trained))
