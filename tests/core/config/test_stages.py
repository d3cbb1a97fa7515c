"""Several runs in one file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from polylens.config.stages import load_stages, parse_stages, stages_text
from polylens.errors import InputError

RUN: dict[str, Any] = {
    "model_plugin": "minicpmv",
    "model": "tiny",
    "output_dir": "out",
    "objective": {"name": "lm"},
    "data": {"train": ["talk.json"], "max_length": 512},
    "training": {"learning_rate": 1e-3, "max_steps": 2},
    "stages": [
        {"name": "pretrain", "tune": ["connector"]},
        {"name": "finetune", "training": {"learning_rate": 2e-5}, "tune_from_layer": {"vision": 1}},
        {"name": "lora", "from": "pretrain", "lora": {"enable": True}, "data": {"train": ["more.json"]}},
        {"name": "other", "model": "another", "objective": {"name": "contrastive"}},
    ],
}


def written(folder: Path, run: dict[str, Any], name: str = "stages.yaml") -> Path:
    path = folder / name
    path.write_text(yaml.safe_dump(run))
    return path


def test_each_stage_is_the_file_with_its_own_values_over_it(tmp_path):
    stages = load_stages([written(tmp_path, RUN)])
    assert stages is not None
    pretrain, finetune, lora, other = (stage.run for stage in stages)
    assert [stage.name for stage in stages] == ["pretrain", "finetune", "lora", "other"]
    assert (pretrain.tune, finetune.tune) == (["connector"], None)
    assert (pretrain.training["learning_rate"], finetune.training["learning_rate"]) == (1e-3, 2e-5)
    assert finetune.training["max_steps"] == 2
    assert (lora.lora.enable, lora.data.train, lora.data.max_length) == (True, ["more.json"], 512)
    assert other.objective.name == "contrastive"


def test_a_stage_starts_from_the_one_before_it_or_from_the_one_it_names(tmp_path):
    stages = load_stages([written(tmp_path, RUN)])
    assert stages is not None
    assert [stage.source for stage in stages] == [None, "pretrain", "pretrain", None]
    assert [stage.run.model for stage in stages] == ["tiny", "out/pretrain", "out/pretrain", "another"]
    assert [stage.run.output_dir for stage in stages] == [f"out/{stage.name}" for stage in stages]


def test_the_command_line_holds_for_every_stage(tmp_path):
    path = written(tmp_path, RUN)
    line = ["--config", str(path), "--max-steps", "7", "--model", "tiny-2.5", "--output-dir", "elsewhere"]
    stages = parse_stages([*line, "--resume-from-checkpoint", "true"])
    assert stages is not None
    assert all(stage.run.training["max_steps"] == 7 for stage in stages)
    assert [stage.run.model for stage in stages][:2] == ["tiny-2.5", "elsewhere/pretrain"]
    assert stages[3].run.model == "another"
    assert all("resume_from_checkpoint" not in stage.run.training for stage in stages)


def test_a_file_without_stages_is_one_run(tmp_path):
    run = {key: value for key, value in RUN.items() if key != "stages"}
    assert load_stages([written(tmp_path, run)]) is None


def test_what_is_printed_gives_the_same_stages(tmp_path):
    stages = load_stages([written(tmp_path, RUN)])
    assert stages is not None
    again = tmp_path / "again.yaml"
    again.write_text(stages_text(stages))
    assert load_stages([again]) == stages


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([], "/stages: "),
        ({"name": "a"}, "/stages: "),
        ([{"tune": ["llm"]}], "/stages/0: .*'name'"),
        ([{"name": "../a"}], "/stages/0/name: "),
        ([{"name": "a"}, {"name": "a"}], "/stages/1/name: there are two stages 'a'"),
        ([{"name": "a", "from": "b"}, {"name": "b"}], "/stages/0/from: no stage 'b' comes before it"),
        ([{"name": "abc"}, {"name": "b", "from": "abd"}], r"no stage 'abd' comes before it \(did you mean 'abc'\?\)"),
        ([{"name": "a"}, {"name": "b", "from": "a", "model": "tiny"}], "/stages/1: it names a model and a stage"),
        ([{"name": "a", "output_dir": "x"}], "/stages/0/output_dir: every stage has a folder of its own"),
        ([{"name": "a", "stages": []}], "/stages/0/stages: a stage has no stages"),
        ([{"name": "a", "tunes": ["llm"]}], "/stages/0: /tunes: "),
        ([{"name": "a", "training": {"max_steps": "x"}}], "/stages/0: /training/max_steps: "),
        ([{"name": "a", "training": {"resume_from_checkpoint": "b"}}], "resume_from_checkpoint names a folder"),
    ],
)
def test_a_stage_that_cannot_be_is_refused_with_its_place(tmp_path, stages, message):
    with pytest.raises(InputError, match=message):
        load_stages([written(tmp_path, {**RUN, "stages": stages})])
