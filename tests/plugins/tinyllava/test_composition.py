"""New models out of folders of language models and vision towers."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    CLIPVisionConfig,
    CLIPVisionModel,
    Dinov2Config,
    Dinov2Model,
    SiglipConfig,
    SiglipModel,
)

from polylens import cli
from polylens.engine.composing import compose
from polylens.engine.loading import load_checkpoint
from polylens.errors import InputError
from polylens_tinyllava.configuration import TinyLlavaConfig
from polylens_tinyllava.family import PRESETS

SIZES = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "image_size": 112, "patch_size": 16}
PIXELS = torch.linspace(-1, 1, 3 * 112 * 112).view(1, 3, 112, 112)


@pytest.fixture(scope="module")
def llm(tmp_path_factory):
    """A tied language model, as transformers writes it, with its tokenizer."""
    folder = tmp_path_factory.mktemp("parts") / "llm"
    values = json.loads((PRESETS / "tiny" / "config.json").read_text(encoding="utf-8"))
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(TinyLlavaConfig(**values).text())
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(PRESETS / "tiny" / name, folder / name)
    return folder


def tower(kind, folder):
    torch.manual_seed(2)
    wide = {**SIZES, "intermediate_size": 96}
    if kind == "siglip":
        text = {"hidden_size": 48, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
        model = SiglipModel(SiglipConfig(text_config={**text, "vocab_size": 30}, vision_config=wide))
    elif kind == "clip":
        model = CLIPVisionModel(CLIPVisionConfig(**wide))
    else:
        model = Dinov2Model(Dinov2Config(**SIZES))
    model.save_pretrained(folder)
    processor = {"size": {"shortest_edge": 112}, "crop_size": {"height": 112, "width": 112}, "image_mean": [0.4] * 3}
    if kind == "clip":
        (folder / "preprocessor_config.json").write_text(json.dumps({**processor, "image_std": [0.2] * 3}))
    return (model.vision_model if kind == "siglip" else model).eval()


@pytest.mark.parametrize("kind", ["siglip", "clip", "dinov2"])
@torch.no_grad()
def test_a_model_of_parts_sees_and_speaks_as_they_do(kind, llm, tmp_path, capsys):
    theirs = tower(kind, tmp_path / "vision")
    argv = ["compose", "--model-plugin", "tinyllava", "--llm", llm, "--vision", tmp_path / "vision"]
    argv += ["--connector", "mlp2x_gelu", "--output-dir", tmp_path / "new"]
    assert cli.main([str(word) for word in argv]) == 0
    assert "22,784 of them new" in capsys.readouterr().out
    found = load_checkpoint(None, str(tmp_path / "new"))
    states = theirs(PIXELS, output_hidden_states=True).hidden_states[-2]
    first = 0 if kind == "siglip" else 1
    torch.testing.assert_close(found.model.eval().tower(PIXELS), states[:, first:])
    own = AutoModelForCausalLM.from_pretrained(llm).state_dict()
    inside = found.model.language_model.state_dict()
    assert all(torch.equal(value, inside[name]) for name, value in own.items())
    assert found.tokenizer.decode(found.tokenizer.encode("幫我")) == "幫我"
    assert found.slicer.slice((300, 200)).visual_tokens == 49
    assert tuple(found.preprocessor.mean) == ((0.4,) * 3 if kind == "clip" else found.model.mean)


def test_a_mixture_of_features(llm, tmp_path):
    tower("clip", tmp_path / "clip")
    theirs = tower("dinov2", tmp_path / "dinov2")
    parts = {"llm": str(llm), "vision": str(tmp_path / "clip"), "second_vision": str(tmp_path / "dinov2")}
    compose("tinyllava", parts, "mof_mlp", tmp_path / "new")
    found = load_checkpoint(None, str(tmp_path / "new"))
    name = "encoder.layer.0.mlp.fc1.weight"
    inside = found.model.tower.state_dict()[f"_vision_tower.dinov2.{name}"]
    assert torch.equal(inside, theirs.state_dict()[name])
    assert found.slicer.slice((300, 200)).visual_tokens == 98


def test_the_connector_follows_from_the_seed(llm, tmp_path):
    tower("siglip", tmp_path / "vision")
    parts, made = {"llm": str(llm), "vision": str(tmp_path / "vision")}, {}
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        compose("tinyllava", parts, "resampler", tmp_path / name, seed=seed)
        made[name] = load_checkpoint(None, str(tmp_path / name)).model.connector.state_dict()
    latents = "_connector.latents"
    assert all(torch.equal(made["a"][key], made["b"][key]) for key in made["a"])
    assert not torch.equal(made["a"][latents], made["c"][latents])
    assert made["a"][latents].std() > 0.5


@pytest.mark.parametrize(
    ("connector", "problem"),
    [
        ("identity", "features are 48 wide, and the language model is 128 wide"),
        ("mof_mlp", "does not fit the vision tower 'siglip'"),
        ("mlp", "/connector_type is 'mlp'"),
    ],
)
def test_a_connector_that_does_not_fit_leaves_nothing_behind(llm, tmp_path, connector, problem):
    tower("siglip", tmp_path / "vision")
    with pytest.raises(InputError, match=problem):
        compose("tinyllava", {"llm": str(llm), "vision": str(tmp_path / "vision")}, connector, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_parts_that_cannot_be_used_are_refused(llm, tmp_path):
    with pytest.raises(InputError, match="a model of type 'qwen2' is no vision tower"):
        compose("tinyllava", {"llm": str(llm), "vision": str(llm)}, "linear", tmp_path / "new")
    tower("siglip", tmp_path / "vision")
    shutil.copytree(
        llm, tmp_path / "vision", dirs_exist_ok=True, ignore=lambda *_: ["config.json", "model.safetensors"]
    )
    parts = {"llm": str(tmp_path / "vision"), "vision": str(tmp_path / "vision")}
    with pytest.raises(InputError, match="transformers has no causal language model of that type"):
        compose("tinyllava", parts, "linear", tmp_path / "new")
    with pytest.raises(InputError, match="plugin 'minicpmv' composes no models"):
        compose("minicpmv", {"llm": str(llm)}, "linear", tmp_path / "new")


def test_a_part_without_all_its_weights_is_refused(llm, tmp_path):
    tower("siglip", tmp_path / "vision")
    path = tmp_path / "vision" / "config.json"
    config = json.loads(path.read_text())
    config["vision_config"]["num_hidden_layers"] = 4
    path.write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"weights are in no part, such as vision_tower"):
        compose("tinyllava", {"llm": str(llm), "vision": str(tmp_path / "vision")}, "linear", tmp_path / "new")
