"""The published models from their ``config.json`` alone: every number of them, and that of an adapter."""

from __future__ import annotations

import json

import pytest

from polylens.config.run import LoraSettings
from polylens.engine.estimate.estimation import Request, estimate

V2 = {
    "model_type": "minicpmv",
    "hidden_size": 2304,
    "intermediate_size": 5760,
    "num_hidden_layers": 40,
    "num_attention_heads": 36,
    "num_key_value_heads": 36,
    "hidden_act": "silu",
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "vocab_size": 122753,
    "scale_emb": 12,
    "scale_depth": 1.4,
    "dim_model_base": 256,
    "tie_word_embeddings": False,
    "vision_encoder": "vit_so400m_patch14_siglip_384.webli",
    "drop_vision_last_layer": True,
    "query_num": 64,
    "image_size": 448,
    "patch_size": 14,
    "max_slice_nums": 9,
    "scale_resolution": 448,
    "slice_mode": True,
    "torch_dtype": "bfloat16",
}

LATER = {
    "model_type": "minicpmv",
    "batch_vision_input": True,
    "drop_vision_last_layer": False,
    "image_size": 448,
    "patch_size": 14,
    "slice_mode": True,
    "tie_word_embeddings": False,
    "hidden_act": "silu",
    "vision_config": {
        "hidden_size": 1152,
        "image_size": 980,
        "intermediate_size": 4304,
        "num_attention_heads": 16,
        "num_hidden_layers": 27,
        "patch_size": 14,
    },
    "slice_config": {"max_slice_nums": 9, "patch_size": 14, "model_type": "minicpmv"},
}

V2_5 = {
    **LATER,
    "version": "2.5",
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "query_num": 96,
    "torch_dtype": "float16",
}

V2_6 = {
    **LATER,
    "version": 2.6,
    "vocab_size": 151666,
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "query_num": 64,
    "use_image_id": True,
    "torch_dtype": "bfloat16",
}


def estimated(folder, config, **lora):
    (folder / "config.json").write_text(json.dumps(config))
    return estimate(Request("minicpmv", str(folder), lora=LoraSettings(**lora))).plans


def test_minicpm_v_2_and_the_adapter_of_its_fine_tuning_script(tmp_path):
    full, lora = estimated(tmp_path, V2, r=64, target_modules=["q_proj", "k_proj"])
    assert full.parameters.weights == 3_434_965_792
    assert {name: count.weights for name, count in full.parameters.components.items()} == {
        "vision": 397_747_744,
        "connector": 29_514_240,
        "llm": 2_724_880_896,
        "embed_tokens": 282_822_912,
    }
    assert lora.parameters.adapter == 23_592_960
    assert lora.parameters.weights == 3_458_558_752


@pytest.mark.parametrize(("config", "weights"), [(V2_5, 8_537_092_336), (V2_6, 8_099_175_152)], ids=["2.5", "2.6"])
def test_later_versions(config, weights, tmp_path):
    full, lora = estimated(tmp_path, config)
    assert full.parameters.weights == weights
    assert lora.parameters.weights == weights + lora.parameters.trained
