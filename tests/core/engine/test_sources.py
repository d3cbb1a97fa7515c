"""Where models come from, and what is said when they do not come."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from polylens import plugins
from polylens.config.card import ModelCard
from polylens.engine.sources import ModelSource, find_model
from polylens.errors import InputError

FAMILIES = plugins.load("minicpmv").families()
PRESET = Path(FAMILIES[0].presets["tiny"])


def find(source: object) -> ModelSource:
    return find_model(str(source), FAMILIES, "minicpmv")


@pytest.fixture
def folder(tmp_path) -> Path:
    """A model folder, as far as finding it goes."""
    return Path(shutil.copytree(PRESET, tmp_path / "model"))


def adapter(folder: Path, base: object = None, *, card: bool = True, config: dict | None = None) -> Path:
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps(config or {}))
    if card:
        ModelCard("minicpmv", "minicpmv-2.0", base_model=base and str(base), base_seed=4).save(folder)
    return folder


@pytest.mark.parametrize("name", ["tiny", "minicpmv-2.0/tiny"])
def test_a_preset(name):
    found = find(name)
    assert (found.folder, found.is_preset, found.adapter, found.card) == (PRESET, True, None, None)
    assert found.family.name == "minicpmv-2.0"
    assert found.config["model_type"] == "minicpmv"


def test_a_folder_before_a_preset_of_the_same_name(folder, monkeypatch):
    """What lies under the user's eyes is meant."""
    folder.rename(folder.parent / "tiny")
    monkeypatch.chdir(folder.parent)
    assert not find("tiny").is_preset


def test_a_folder_with_its_card(folder):
    card = ModelCard("minicpmv", "minicpmv-2.0", pooling="last")
    card.save(folder)
    found = find(folder)
    assert (found.folder, found.is_preset, found.card) == (folder, False, card)


def test_an_adapter_over_a_folder_or_a_preset(folder, tmp_path):
    over_folder = find(adapter(tmp_path / "a", folder))
    assert (over_folder.folder, over_folder.adapter, over_folder.is_preset) == (folder, tmp_path / "a", False)
    over_preset = find(adapter(tmp_path / "b", "tiny"))
    assert (over_preset.folder, over_preset.adapter, over_preset.is_preset) == (PRESET, tmp_path / "b", True)
    assert over_preset.card is not None
    assert over_preset.card.base_seed == 4


def test_an_adapter_of_peft_alone_names_its_base(folder, tmp_path):
    config = {"base_model_name_or_path": str(folder)}
    assert find(adapter(tmp_path / "a", card=False, config=config)).folder == folder


def test_an_adapter_over_an_adapter_is_refused(tmp_path):
    first = adapter(tmp_path / "a", "tiny")
    with pytest.raises(InputError, match=r"the base of this adapter, .* is an adapter itself: merge that one first"):
        find(adapter(tmp_path / "b", first))


def test_an_adapter_over_itself_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"is an adapter itself: merge that one first"):
        find(adapter(tmp_path / "a", tmp_path / "a"))


def test_an_adapter_without_a_base_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"does not say over which model: set base_model_name_or_path in"):
        find(adapter(tmp_path / "a"))


def test_an_adapter_whose_base_is_gone_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"the base of this adapter cannot be found: .*moved"):
        find(adapter(tmp_path / "a", tmp_path / "moved"))


def test_a_checkpoint_of_another_family_is_refused(folder):
    (folder / "config.json").write_text('{"model_type": "llava", "architectures": ["LlavaForCausalLM"]}')
    with pytest.raises(InputError) as error:
        find(folder)
    message = str(error.value)
    for part in (str(folder), "'llava'", "LlavaForCausalLM", "none of the families of plugin 'minicpmv'", "2.0"):
        assert part in message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"has no config\.json: it is not a model folder"),
        (b'{"model_type": ', r"config\.json: not JSON"),
        (b"\xff\xfe\x00", r"config\.json: not JSON"),
        (b"[1, 2]", r"config\.json: holds list, not an object"),
        (b"{}", "none of the families"),
    ],
)
def test_a_folder_that_is_no_model_is_refused(tmp_path, content, message):
    if content is not None:
        (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(InputError, match=message):
        find(tmp_path)


def test_a_misspelt_preset_gets_the_closest_one():
    with pytest.raises(
        InputError, match=r"no model 'tinny'.*presets? of plugin 'minicpmv' \(tiny, tiny-2\.5.*\) \(did you mean"
    ):
        find("tinny")


@pytest.mark.parametrize("source", ["openbmb/no-such-model", "/no/such/folder", "a/b/c", "./gone", "org/bad name"])
def test_what_the_hub_does_not_give_is_one_line(source):
    """Offline, as the tests are: the same error as for a name that does not exist."""
    with pytest.raises(InputError) as error:
        find(source)
    message = str(error.value)
    assert message.startswith(f"no model {source!r}: no such folder, and the hub does not give it: ")
    assert "\n" not in message
