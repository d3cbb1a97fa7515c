from __future__ import annotations

import json
from pathlib import Path

import pytest

from polylens.benchmark.comparison import ComparedModel, Comparison, ComparisonData, PredictSettings
from polylens.benchmark.counting import count_entry
from polylens.benchmark.entries import Files, entries
from polylens.contracts import ImageRef, Message, Record
from polylens.data.images import ImageOpener
from polylens.errors import InputError

LORA = {"lora": {"enable": True, "r": 4}, "tune": ["connector"]}


@pytest.fixture
def make(tmp_path):
    talk = [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "That."}]
    for name in ("train", "test"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"id": name, "conversations": talk}) + "\n")

    def call(modes=None, run=None, **changes):
        comparison = Comparison(
            str(tmp_path / "out"),
            ComparisonData("train.jsonl", "test.jsonl"),
            {"a": ComparedModel("minicpmv", "minicpmv-2.0/tiny", {"max_slice_nums": 1})},
            modes if modes is not None else {"lora": LORA, "full": {}, "as_it_is": None},
            run or {},
            **changes,
        )
        files = Files(tmp_path / "train.jsonl", tmp_path / "test.jsonl", changes.get("root"))
        return entries(comparison, files, "c.yaml")

    return call


def outputs(found) -> dict[str, dict[str, Path]]:
    return {entry.name: {name: step.output for name, step in entry.steps.items()} for entry in found}


def test_the_steps_of_every_mode(make, tmp_path):
    lora, full, as_it_is = make()
    assert [*lora.steps] == ["train", "merge", "predict", "score"]
    assert [*full.steps] == ["train", "predict", "score"]
    assert [*as_it_is.steps] == ["predict", "score"]
    assert lora.run is not None
    assert (lora.run.objective.name, lora.run.lora.r, lora.run.options) == ("lm", 4, {"max_slice_nums": 1})
    assert lora.run.data.train == [str(tmp_path / "train.jsonl")]
    assert f"--model {lora.steps['merge'].output} " in lora.steps["predict"].line
    assert f"--model {full.steps['train'].output.parent} " in full.steps["predict"].line
    assert "--model minicpmv-2.0/tiny" in as_it_is.steps["predict"].line
    assert as_it_is.steps["predict"].line.endswith("--model-plugin minicpmv --option max_slice_nums=1")


def test_a_change_concerns_what_depends_on_it_alone(make, tmp_path):
    before = outputs(make())
    assert outputs(make()) == before
    asked = outputs(make(predict=PredictSettings(max_new_tokens=3)))
    assert asked["a/lora"]["merge"] == before["a/lora"]["merge"]
    assert not set(asked["a/lora"].values()) & {before["a/lora"][name] for name in ("predict", "score")}
    trained = outputs(make(run={"training": {"learning_rate": 2e-5}}))
    assert not set(trained["a/lora"].values()) & set(before["a/lora"].values())
    assert trained["a/as_it_is"] == before["a/as_it_is"]
    mode = outputs(make({"lora": {**LORA, "tune": []}, "full": {}, "as_it_is": None}))
    assert mode["a/lora"]["train"] != before["a/lora"]["train"]
    assert mode["a/full"] == before["a/full"]
    (tmp_path / "test.jsonl").write_text((tmp_path / "test.jsonl").read_text() + "\n")
    tested = outputs(make())
    assert tested["a/full"]["train"] == before["a/full"]["train"]
    assert tested["a/full"]["predict"] != before["a/full"]["predict"]


def test_ocr_lines_are_a_part_of_what_is_trained_on(make, tmp_path):
    mode = {"objective": {"name": "multi_granularity"}, "data": {"ocr": [str(tmp_path / "ocr.jsonl")]}}
    with pytest.raises(InputError, match=r"ocr\.jsonl cannot be read"):
        make({"aligned": mode})
    made = []
    for text in ("{}", "{ }"):
        (tmp_path / "ocr.jsonl").write_text(text)
        made.append(outputs(make({"aligned": mode}))["a/aligned"]["train"])
    assert made[0] != made[1]


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        ({"lorra": {}}, r"c\.yaml: a/full: .*/lorra: unknown key \(did you mean 'lora'"),
        ({"training": {"learning_rate": "fast"}}, r"c\.yaml: a/full: .*learning_rate"),
        ({"objective": {"name": "contrastive"}}, "comparisons train on conversations"),
    ],
)
def test_a_run_that_cannot_be_is_seen_before_any_is_made(make, mode, message):
    with pytest.raises(InputError, match=message):
        make({"full": mode})


def test_what_is_trained_and_seen_is_counted_without_weights(make):
    record = Record("r", (Message("user", (ImageRef("bytes", b""), "What?")),))

    class Sizes(ImageOpener):
        def size(self, ref, where):
            return 224, 224

    lora, full, as_it_is = (count_entry(entry, [record], Sizes()) for entry in make())
    assert as_it_is.trained == 0 < lora.trained < full.trained <= full.weights
    assert lora.weights == full.weights == as_it_is.weights
    assert lora.tokens == 16
