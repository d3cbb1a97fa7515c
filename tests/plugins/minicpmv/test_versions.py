import pytest

from polylens.errors import InputError
from polylens_minicpmv.family import MINICPMV_2_0
from polylens_minicpmv.versions import detect_version

V20 = {"model_type": "minicpmv", "hidden_size": 2304, "query_num": 64}
V25 = {"model_type": "minicpmv", "version": "2.5", "hidden_size": 4096, "query_num": 96}
EARLY_V25 = {"model_type": "minicpmv", "hidden_size": 4096, "query_num": 96, "slice_config": {}, "vision_config": {}}
V26 = {"model_type": "minicpmv", "version": 2.6, "hidden_size": 3584, "query_num": 64}
RESIZED = {"model_type": "minicpmv", "hidden_size": 256, "query_num": 4, "vision_encoder": "any"}


@pytest.mark.parametrize(
    ("config", "version"),
    [(V20, "2.0"), (V25, "2.5"), (EARLY_V25, "2.5"), (V26, "2.6"), (RESIZED, "2.0"), ({"model_type": "qwen2"}, None)],
)
def test_the_version_follows_from_the_content(config, version):
    assert detect_version(config) == version


def test_a_path_that_names_another_version_changes_nothing():
    assert detect_version({**V20, "_name_or_path": "openbmb/MiniCPM-V-2_6"}) == "2.0"


def test_the_family_recognises_2_0_only():
    assert MINICPMV_2_0.recognises(V20)
    assert not MINICPMV_2_0.recognises({"model_type": "llama"})
    assert not MINICPMV_2_0.recognises({})


@pytest.mark.parametrize(("config", "version"), [(V25, "2.5"), (EARLY_V25, "2.5"), (V26, "2.6")])
def test_another_version_is_refused_by_name(config, version):
    with pytest.raises(InputError, match=rf"describes MiniCPM-V {version}.*reads MiniCPM-V 2\.0"):
        MINICPMV_2_0.recognises(config)
