import json

import pytest

from polylens.errors import InputError
from polylens_minicpmv.models.minicpmv2 import MiniCPMV2Config

HUB = {
    "architectures": ["MiniCPMV"],
    "auto_map": {"AutoModel": "modeling_minicpmv.MiniCPMV"},
    "model_type": "minicpmv",
    "hidden_size": 2304,
    "query_num": 64,
    "vision_encoder": "vit_so400m_patch14_siglip_384.webli",
    "rope_scaling": None,
    "rope_theta": 10000.0,
    "torch_dtype": "bfloat16",
    "max_length": 20,
    "return_dict": True,
    "transformers_version": "4.36.0",
    "scale_emb": 12,
}


def test_the_file_comes_back_as_it_was(tmp_path):
    config = MiniCPMV2Config(**HUB)
    config.save_pretrained(tmp_path)
    assert config.to_dict() == HUB
    assert json.loads((tmp_path / "config.json").read_text()) == HUB
    assert MiniCPMV2Config.from_pretrained(tmp_path).to_dict() == HUB


def test_what_changes_is_written():
    config = MiniCPMV2Config(**HUB)
    config.dtype = "float32"
    config.use_cache = False
    assert config.to_dict() == {**HUB, "torch_dtype": "float32", "use_cache": False}


def test_a_published_tower_is_known_by_name():
    sizes = MiniCPMV2Config(**HUB).vision_sizes
    assert (sizes.hidden_size, sizes.num_hidden_layers, sizes.intermediate_size) == (1152, 27, 4304)


def test_multipliers_of_the_language_model():
    llm = MiniCPMV2Config(**HUB).language_model()
    assert llm.residual_multiplier == 1.4 / 40**0.5
    assert llm.attention_multiplier == 64**-0.5
    assert llm.logits_scaling == 9
    assert llm.rope_parameters["rope_theta"] == 10000.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vision_encoder": "vit_huge"}, "vision_encoder is 'vit_huge'"),
        ({"polylens_vision": {"depth": 3}}, "polylens_vision has depth; it may have image_size"),
        ({"polylens_vision": {"hidden_size": 100}}, "100 dimensions, which do not divide into 16 heads"),
        ({"hidden_size": 200}, "hidden_size is 200; it must be a multiple of 128"),
        ({"query_num": 60}, "query_num is 60; it must be the square"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        MiniCPMV2Config(**{**HUB, **change}).check_sizes()
