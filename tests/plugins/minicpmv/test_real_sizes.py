"""The published models from their ``config.json`` alone: every number of them, and that of an adapter."""

from __future__ import annotations

import json

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
