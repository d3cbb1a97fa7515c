from __future__ import annotations

import re
from dataclasses import asdict

import pytest
from support import ROOT

from polylens.config import schemas
from polylens.config.files import read_yaml
from polylens.data.subtitles.settings import Colours, SubtitleSettings, subtitle_settings
from polylens.errors import InputError


def test_the_schema_knows_every_setting_and_its_default():
    plain = {
        name: [*value] if isinstance(value, tuple) else value for name, value in asdict(SubtitleSettings()).items()
    }
    for name in ("colours", "stroke_colours"):
        plain[name] = [{**box, "low": [*box["low"]], "high": [*box["high"]]} for box in plain[name]]
    assert schemas.schema("subtitles")["properties"].keys() == plain.keys()
    assert schemas.errors("subtitles", plain) == []
    assert subtitle_settings(plain, "x") == SubtitleSettings()


def test_the_defaults_of_the_documentation_are_those_of_the_code():
    text = (ROOT / "docs" / "subtitles.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    given = read_yaml(example, "subtitles.md")
    assert given.keys() == asdict(SubtitleSettings()).keys()
    assert subtitle_settings(given, "subtitles.md") == SubtitleSettings()


def test_what_is_given_replaces_defaults():
    given = {"size": [320, 180], "colours": [{"low": [0, 0, 0], "high": [9, 9, 9], "weight": 2}], "bright": 10}
    found = subtitle_settings(given, "x")
    assert (found.size, found.bright) == ((320, 180), 10)
    assert found.colours == (Colours((0, 0, 0), (9, 9, 9), 2.0),)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"font_sise": 1, "quality": [1, 99]}, r"look.yaml: /font_sise: .*did you mean 'font_size'.*/quality/1: 99"),
        ({"font_size": [0.2, 0.1]}, "look.yaml: /font_size: the range goes from 0.2 to 0.1"),
        ({"colours": [{"low": [9, 9, 9], "high": [9, 8, 9]}]}, "/colours/0: the range goes from 9 to 8"),
        ({"size": [0, 10]}, "/size/0: 0 is less than the minimum"),
        ({"colours": []}, "/colours"),
    ],
)
def test_all_that_is_wrong_is_named(given, message):
    with pytest.raises(InputError, match=message):
        subtitle_settings(given, "look.yaml")
