import pytest

from polylens.errors import InputError
from polylens_minicpmv.family import FAMILIES
from polylens_minicpmv.versions import detect_version

V20 = {"model_type": "minicpmv", "hidden_size": 2304, "query_num": 64}
V25 = {"model_type": "minicpmv", "version": "2.5", "hidden_size": 4096, "query_num": 96}
EARLY_V25 = {"model_type": "minicpmv", "hidden_size": 4096, "query_num": 96, "slice_config": {}, "vision_config": {}}
V26 = {"model_type": "minicpmv", "version": 2.6, "hidden_size": 3584, "query_num": 64}
RESIZED = {"model_type": "minicpmv", "hidden_size": 256, "query_num": 4, "vision_encoder": "any"}
NATIVE = [({"model_type": "minicpmv4_6"}, "4.6"), ({"model_type": "minicpmv4_7"}, "4.7")]
CASES = [(V20, "2.0"), (V25, "2.5"), (EARLY_V25, "2.5"), (V26, "2.6"), (RESIZED, "2.0"), *NATIVE]


@pytest.mark.parametrize(("config", "version"), [*CASES, ({"model_type": "qwen2"}, None)])
def test_the_version_follows_from_the_content(config, version):
    assert detect_version(config) == version


def test_a_path_that_names_another_version_changes_nothing():
    assert detect_version({**V20, "_name_or_path": "openbmb/MiniCPM-V-2_6"}) == "2.0"


@pytest.mark.parametrize(("config", "version"), CASES)
def test_one_family_recognises_a_version(config, version):
    assert [family.name for family in FAMILIES if family.recognises(config)] == [f"minicpmv-{version}"]


@pytest.mark.parametrize("config", [{"model_type": "llama"}, {}])
def test_other_models_are_left_to_others(config):
    assert not any(family.recognises(config) for family in FAMILIES)


@pytest.mark.parametrize("version", [4, "4.5"])
def test_another_version_is_refused_by_name(version):
    with pytest.raises(InputError, match=rf"describes MiniCPM-V {version}; .* reads the versions 2\.0, 2\.5, 2\.6"):
        FAMILIES[0].recognises({"model_type": "minicpmv", "version": version})
