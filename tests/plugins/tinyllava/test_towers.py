"""Towers and connectors of which no outputs of the original are at hand."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from transformers import Dinov2Config, Dinov2Model, GemmaForCausalLM

from polylens.errors import InputError
from polylens.testing import Subject
from polylens.testing.chunks import vision_chunks_change_no_output
from polylens.testing.gradients import text_alone_gives_zero_gradients
from polylens.testing.models import features_stand_in_for_pixels, weights_are_reached_by_calls
from polylens_tinyllava.configuration import TinyLlavaConfig
from polylens_tinyllava.family import PRESETS
from polylens_tinyllava.model import TinyLlavaForConditionalGeneration, build
from polylens_tinyllava.towers import NamedDinov2

SIZES = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "image_size": 112, "patch_size": 16}
CLIP = {**SIZES, "model_type": "clip_vision_model", "intermediate_size": 96, "model_name_or_path": "mof:openai/clip"}
DINOV2 = {**SIZES, "model_type": "dinov2", "image_size": 64, "mlp_ratio": 2}
MIXTURE = {"vision_config": CLIP, "vision_config2": DINOV2, "connector_type": "mof_mlp"}


@pytest.fixture(scope="module")
def config():
    return json.loads((PRESETS / "tiny-phi" / "config.json").read_text(encoding="utf-8"))


@torch.no_grad()
def test_dinov2_has_published_names_and_transformers_states():
    torch.manual_seed(0)
    theirs = Dinov2Model(Dinov2Config(**DINOV2)).eval()
    ours, pixels = NamedDinov2(Dinov2Config(**DINOV2)).eval(), torch.randn(2, 3, 112, 112)
    names = {name: published(name) for name in theirs.state_dict()}
    assert set(ours.state_dict()) == set(names.values())
    assert "encoder.layer.0.attention.attention.query.weight" in ours.state_dict()
    ours.load_state_dict({names[name]: value for name, value in theirs.state_dict().items()})
    torch.testing.assert_close(ours(pixels).last_hidden_state, theirs(pixels).last_hidden_state)


def published(name: str) -> str:
    for old, new in (("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj")):
        name = name.replace(f".attention.{new}.", f".attention.attention.{old}.")
    return name.replace(".attention.o_proj.", ".attention.output.dense.")


@torch.no_grad()
def test_tokens_of_a_mixture_take_turns(config):
    """Even ones of CLIP, odd ones of DINOv2, both of CLIP's pixels."""
    model = build({**config, **MIXTURE}).eval()
    pixels = torch.randn(1, 3, 112, 112)
    features = model.tower(pixels)
    assert features.shape == (1, 49, 96)
    tokens, connector = model.connect(features), model.connector._connector
    torch.testing.assert_close(tokens[0, 0::2], connector["clip"](features[..., :48])[0])
    torch.testing.assert_close(tokens[0, 1::2], connector["dinov2"](features[..., 48:])[0])
    state = {name.split(".encoder")[0] for name in model.tower.state_dict() if ".encoder" in name}
    assert state == {"_vision_tower.clip.vision_model", "_vision_tower.dinov2"}


@pytest.fixture(scope="module", params=["mixture", "dinov2 and resampler", "clip and qformer"])
def subject(request, config, tmp_path_factory):
    """A model folder with another tower and connector, for checks of the kit."""
    qformer = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    changes = {
        "mixture": MIXTURE,
        "dinov2 and resampler": {
            "vision_config": {**DINOV2, "image_size": 112},
            "connector_type": "resampler",
            "num_queries": 5,
            "num_resampler_layers": 2,
        },
        "clip and qformer": {
            "vision_config": {**CLIP, "model_name_or_path": ""},
            "connector_type": "qformer",
            "num_queries": 3,
            "qformer_config": {**qformer, "vocab_size": 50, "max_position_embeddings": 20},
        },
    }
    folder = tmp_path_factory.mktemp("model")
    shutil.copytree(PRESETS / "tiny-phi", folder, dirs_exist_ok=True)
    torch.manual_seed(0)
    build({**config, **changes[request.param], "image_aspect_ratio": "pad"}).save_pretrained(folder)
    return Subject("tinyllava", "tinyllava", str(folder))


CHECKS = (
    features_stand_in_for_pixels,
    text_alone_gives_zero_gradients,
    vision_chunks_change_no_output,
    weights_are_reached_by_calls,
)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_contract_is_kept(check, subject):
    check(subject)


@torch.no_grad()
def test_visual_tokens_of_gemma_are_scaled_as_its_embeddings(config):
    """transformers 4 multiplied both by sqrt(width), transformers 5 the embeddings alone."""
    text = {"model_type": "gemma", "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "head_dim": 16}
    text |= {"num_attention_heads": 4, "num_key_value_heads": 1, "vocab_size": 704}
    model = build({**config, "text_config": text}).eval()
    assert isinstance(model.language_model, GemmaForCausalLM)
    features = torch.randn(2, 48, 48)
    tokens = torch.stack(list(model._connect(features)))
    torch.testing.assert_close(tokens, model.connect(features) * 8)


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("phi", {"num_key_value_heads": 4}),
        ("llama", {"num_key_value_heads": 2}),
        ("stablelm", {"num_key_value_heads": 4}),
        ("gemma", {"num_key_value_heads": 1, "head_dim": 16}),
        ("qwen2", {"num_key_value_heads": 2}),
        ("qwen3", {"num_key_value_heads": 2, "head_dim": 16}),
        ("phi3", {"num_key_value_heads": 2, "pad_token_id": 0}),
        ("smollm3", {"num_key_value_heads": 2, "pad_token_id": 0}),
        ("gpt_neox", {}),
    ],
)
def test_any_causal_language_model(config, kind, values):
    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    text = {"model_type": kind, **sizes, "vocab_size": 704, "bos_token_id": 1, "eos_token_id": 2, **values}
    model = build({**config, "text_config": text})
    assert model.language_model.config.model_type == kind
    assert model.head(torch.zeros(3, 64)).shape == (3, 704)
    assert model.get_input_embeddings()(torch.zeros(1, dtype=torch.long)).shape == (1, 64)


def test_phi_keeps_the_bias_of_its_head(config):
    assert build(config).language_model.lm_head.bias.shape == (704,)


def test_a_mixture_needs_two_towers_that_fit(config):
    with pytest.raises(InputError, match=r"a CLIP and a DINOv2 of one width; these are clip_vision_model with 48"):
        build({**config, **MIXTURE, "vision_config2": {**DINOV2, "hidden_size": 32}})
    with pytest.raises(InputError, match=r"'mlp2x_gelu' does not fit the vision tower 'mof'"):
        build({**config, **MIXTURE, "connector_type": "mlp2x_gelu"})
    unknown = {**config, **MIXTURE, "vision_config2": None}
    with pytest.raises(InputError, match=r"second tower of this mixture is named '', and nothing says its sizes"):
        build(unknown)


def test_published_names_of_the_second_tower_stand_for_its_sizes(config):
    named = {**CLIP, "model_name_or_path2": "facebook/dinov2-large"}
    values = TinyLlavaConfig(**{**config, "vision_config": named}).second_vision()
    assert (values.hidden_size, values.num_hidden_layers, values.image_size, values.patch_size) == (1024, 24, 518, 14)


def test_the_published_sizes():
    """Phi-2 with SigLIP-so400m, as the card of tinyllava/TinyLLaVA-Phi-2-SigLIP-3.1B says: 3.1 billion."""
    phi = {"model_type": "phi", "hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 32}
    phi |= {"num_attention_heads": 32, "vocab_size": 51200, "partial_rotary_factor": 0.4}
    siglip = {"model_type": "siglip_vision_model", "hidden_size": 1152, "intermediate_size": 4304, "image_size": 384}
    siglip |= {"num_hidden_layers": 27, "num_attention_heads": 16, "patch_size": 14}
    with torch.device("meta"):
        model = TinyLlavaForConditionalGeneration(
            TinyLlavaConfig(text_config=phi, vision_config=siglip, connector_type="mlp2x_gelu", hidden_size=2560)
        )
    phi_2, so400m, connector = 2_779_683_840, 428_225_600, 9_507_840
    assert sum(weight.numel() for weight in model.state_dict().values()) == phi_2 + so400m + connector
