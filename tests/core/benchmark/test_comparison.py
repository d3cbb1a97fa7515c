from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml
from support import ROOT

from polylens.benchmark.comparison import read_comparison
from polylens.config import schemas
from polylens.errors import InputError

SMALL = {
    "output_dir": "out",
    "data": {"train": "train.jsonl", "test": "test.jsonl"},
    "models": {"a": {"plugin": "minicpmv", "model": "tiny"}},
    "modes": {"full": {}, "zero_shot": None},
}


@pytest.fixture
def write(tmp_path):
    def call(**changes) -> Path:
        path = tmp_path / "c.yaml"
        path.write_text(yaml.safe_dump({**SMALL, **changes}, sort_keys=False))
        return path

    return call


def test_a_small_file_and_its_defaults(write):
    found = read_comparison(write())
    assert (found.models["a"].plugin, found.processes, found.predict.max_new_tokens) == ("minicpmv", 1, 128)
    assert found.modes == {"full": {}, "zero_shot": None}
    assert read_comparison(write(), {"predict": {"max_new_tokens": 5}}).predict.max_new_tokens == 5


def test_the_schema_allows_every_key_and_no_other():
    found = read_comparison(ROOT / "examples" / "subtitles.yaml")
    rules = schemas.schema("comparison")["properties"]
    assert rules.keys() - {"$schema"} == asdict(found).keys()
    assert rules["data"]["properties"].keys() == asdict(found.data).keys()
    assert found.data.synthesis is not None
    assert rules["data"]["properties"]["synthesis"]["properties"].keys() == asdict(found.data.synthesis).keys()
    for name in ("predict", "score"):
        assert rules[name]["properties"].keys() == asdict(getattr(found, name)).keys()


def test_the_files_of_the_documentation_are_comparisons(tmp_path):
    text = (ROOT / "docs" / "benchmark.md").read_text(encoding="utf-8")
    whole, data = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    (tmp_path / "whole.yaml").write_text(whole)
    found = read_comparison(tmp_path / "whole.yaml")
    assert ([*found.models], [*found.modes]) == (["minicpmv", "tinyllava"], ["lora", "full", "zero_shot"])
    files = "data:" + whole.partition("data:")[2].partition("models:")[0]
    (tmp_path / "made.yaml").write_text(whole.replace(files, data))
    made = read_comparison(tmp_path / "made.yaml").data
    assert made.synthesis is not None
    assert (made.synthesis.count, made.split_by) == (10000, "answer")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"proceses": 2}, r"c\.yaml: /proceses: unknown key \(did you mean 'processes'\?\)"),
        ({"models": {"a b": {"plugin": "x", "model": "y"}}}, "'a b' does not match"),
        ({"models": {"a": {"plugin": "x"}}, "processes": 0}, r"/models/a: 'model' is .*/processes: 0 is less"),
        ({"data": {"train": "x"}}, r"c\.yaml: /data: give train and test"),
        ({"data": {"train": "x", "synthesis": {"images": "x", "sentences": "x", "count": 5}}},
         r"c\.yaml: /data: synthesis makes training and test data"),
        ({"run": {"model": "x"}}, r"c\.yaml: /run/model: say this in /models/NAME/model"),
        ({"modes": {"full": {"data": {"train": ["x"]}}}}, "/modes/full/data/train: say this in /data"),
        ({"models": {"a": {"plugin": "x", "model": "y", "run": {"options": {}}}}},
         "/models/a/run/options: say this in /models/NAME/options"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(write, changes, message):
    with pytest.raises(InputError, match=message):
        read_comparison(write(**changes))
