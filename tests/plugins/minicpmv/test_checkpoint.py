import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from polylens import plugins
from polylens_minicpmv.models.minicpmv2 import MiniCPMV2

KEYS = {
    "llm.model.embed_tokens.weight": (2048, 128),
    "llm.lm_head.weight": (2048, 128),
    "llm.model.norm.weight": (128,),
    "llm.model.layers.1.self_attn.k_proj.weight": (128, 128),
    "llm.model.layers.1.mlp.down_proj.weight": (128, 256),
    "vpm.patch_embed.proj.weight": (64, 3, 14, 14),
    "vpm.pos_embed": (1, 64, 64),
    "vpm.blocks.1.attn.qkv.weight": (192, 64),
    "vpm.blocks.1.mlp.fc1.bias": (128,),
    "vpm.norm.bias": (64,),
    "resampler.pos_embed": (16, 128),
    "resampler.query": (16, 128),
    "resampler.kv_proj.weight": (128, 64),
    "resampler.attn.in_proj_weight": (384, 128),
    "resampler.attn.in_proj_bias": (384,),
    "resampler.attn.out_proj.bias": (128,),
    "resampler.ln_post.weight": (128,),
    "resampler.proj": (128, 128),
}
"""Names of openbmb/MiniCPM-V-2, in the sizes of the preset."""


def load(folder: Path, config=None, **options):
    hooks = plugins.load("minicpmv")
    config = config or json.loads((folder / "config.json").read_text(encoding="utf-8"))
    with torch.device("meta"):
        empty = hooks.build_model(family=hooks.families()[0], config=config)
    return type(empty).from_pretrained(folder, config=empty.config, **options)


def test_the_published_sizes():
    hooks = plugins.load("minicpmv")
    with torch.device("meta"):
        model = hooks.build_model(
            family=hooks.families()[0],
            config={"model_type": "minicpmv", "hidden_size": 2304, "query_num": 64},
        )
    assert sum(weight.numel() for weight in model.state_dict().values()) == 3_434_965_792
    assert len(model.state_dict()) == 694
    parts = {"vpm": 397_747_744, "resampler": 29_514_240, "llm.model.embed_tokens": 282_822_912}
    for name, count in parts.items():
        assert sum(weight.numel() for weight in model.get_submodule(name).state_dict().values()) == count
    assert model.resampler.attn.heads == 18


V25 = {
    "model_type": "minicpmv",
    "version": "2.5",
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 8192,
    "query_num": 96,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "bos_token_id": 128000,
    "eos_token_id": 128001,
    "drop_vision_last_layer": False,
    "batch_vision_input": True,
    "tie_word_embeddings": False,
    "slice_config": {"max_slice_nums": 9, "patch_size": 14, "model_type": "minicpmv"},
    "vision_config": {
        "model_type": "idefics2",
        "hidden_size": 1152,
        "image_size": 980,
        "intermediate_size": 4304,
        "num_attention_heads": 16,
        "num_hidden_layers": 27,
        "patch_size": 14,
    },
}
V26 = {
    **V25,
    "version": 2.6,
    "vocab_size": 151666,
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "max_position_embeddings": 32768,
    "query_num": 64,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "use_sliding_window": False,
    "sliding_window": 131072,
    "max_window_layers": 28,
    "use_image_id": True,
}


@pytest.mark.parametrize(
    ("config", "parameters", "tensors"), [(V25, 8_537_092_336, 741), (V26, 8_099_175_152, 789)], ids=["2.5", "2.6"]
)
@pytest.mark.parametrize("given", ["whole", "version alone"])
def test_the_published_sizes_of_later_versions(config, parameters, tensors, given):
    hooks = plugins.load("minicpmv")
    if given == "version alone":
        config = {name: config[name] for name in ("model_type", "version")}
    (family,) = (family for family in hooks.families() if family.recognises(config))
    with torch.device("meta"):
        model = hooks.build_model(family=family, config=config)
    assert sum(weight.numel() for weight in model.state_dict().values()) == parameters
    assert len(model.state_dict()) == tensors
    assert model.config.to_dict() == {"architectures": ["MiniCPMV"], **config}


@pytest.mark.parametrize("shard", ["5GB", "500KB"])
def test_what_is_saved_is_what_is_loaded(tiny, tmp_path, batch, shard):
    model = tiny.model().float()
    model.resampler.pos_embed.add_(0.25)  # what is stored counts, not what would be computed
    model.save_pretrained(tmp_path, max_shard_size=shard)
    assert json.loads((tmp_path / "config.json").read_text()) == tiny.config
    stored = {}
    for path in tmp_path.glob("*.safetensors"):
        stored |= load_file(path)
    assert (shard == "5GB") == (len(list(tmp_path.glob("*.safetensors"))) == 1)
    assert {name: tuple(stored[name].shape) for name in KEYS} == KEYS
    assert set(stored) == set(model.state_dict())
    again = load(tmp_path)
    assert all(torch.equal(again.state_dict()[name], value) for name, value in model.state_dict().items())
    with torch.no_grad():
        assert torch.equal(again.eval()(batch).hidden, model(batch).hidden)


@pytest.fixture(scope="module")
def batch(tiny, examples):
    return tiny.batch(examples)


def test_a_model_built_on_meta_computes_its_own_tables(tiny, tmp_path, batch):
    """Tables that lie in buffers are garbage after a meta device; here they are computed when they are used."""
    model = tiny.model()
    model.save_pretrained(tmp_path)
    again = load(tmp_path, dtype=torch.float64).eval()
    with torch.no_grad():
        assert torch.equal(again(batch).hidden, model(batch).hidden)


def test_missing_weights_start_as_in_a_new_model(tiny, tmp_path):
    model = tiny.model().float()
    stored = {name: value for name, value in model.state_dict().items() if not name.startswith("resampler")}
    save_file(stored, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_text(json.dumps(tiny.config))
    again = load(tmp_path)
    assert torch.equal(again.resampler.pos_embed, model.resampler.pos_embed)
    assert 0.015 < again.resampler.query.std() < 0.025
    assert again.resampler.attn.in_proj_weight.std() > 0.05
    assert torch.equal(again.vpm.pos_embed, model.vpm.pos_embed)


def test_bfloat16_stays_near_float32(tiny, tmp_path, batch):
    model = tiny.model().float()
    model.save_pretrained(tmp_path)
    half = load(tmp_path, dtype=torch.bfloat16).eval()
    assert {weight.dtype for weight in half.state_dict().values()} == {torch.bfloat16}
    mask = batch.attention_mask
    with torch.no_grad():
        similarity = torch.cosine_similarity(half(batch).hidden[mask].float(), model(batch).hidden[mask], dim=-1)
    assert similarity.mean() > 0.999


def test_random_weights_depend_on_the_seed_alone(tiny):
    one, same, other = tiny.model(seed=3), tiny.model(seed=3), tiny.model(seed=4)
    assert all(torch.equal(value, same.state_dict()[name]) for name, value in one.state_dict().items())
    assert not torch.equal(one.vpm.pos_embed, other.vpm.pos_embed)


def test_a_checkpoint_of_the_original_is_written_back_unchanged(original, original_config, tmp_path):
    model = load(original, original_config)
    model.save_pretrained(tmp_path)
    theirs, ours = load_file(original / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[name], ours[name]) for name in theirs)
    written = json.loads((tmp_path / "config.json").read_text())
    assert written == {**original_config, "torch_dtype": "float32"}
    assert isinstance(model, MiniCPMV2)
