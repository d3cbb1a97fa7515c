"""The table and the page, from figures that are made up."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest
from PIL import Image

from polylens.benchmark.comparison import ComparedModel, Comparison, ComparisonData
from polylens.benchmark.counting import Counts
from polylens.benchmark.entries import Entry
from polylens.benchmark.page import write_page
from polylens.benchmark.results import Failure, Result, best_values, read_result, write_csv
from polylens.benchmark.steps import Step
from polylens.config.run import RunConfig
from polylens.contracts import ImageRef, Message, Record
from polylens.data.images import ImageOpener
from polylens.generation.text_scores import Normalisation

MODEL = ComparedModel("plugin", "folder <b>")
ANSWERS = [
    {"id": "p1", "answer": "abc", "references": ["abc"]},
    {"id": "p2", "answer": "", "references": ["xyzw"], "finished": False},
    {"id": "p3", "answer": 'say "x,\ny" <i>', "references": ["say"]},
    {"id": "p4", "answer": "aX", "references": ["zz", "ax"]},
]


@pytest.fixture
def entry(tmp_path) -> Entry:
    """An entry whose steps are done."""
    train = Step("train", ("train", "--config", "a.yaml"), tmp_path / "t" / "polylens.json", tmp_path / "t")
    predict = Step("predict", ("predict",), tmp_path / "answers.jsonl", tmp_path / "answers")
    score = Step("score", ("evaluate",), tmp_path / "scores.json", tmp_path / "scores")
    train.output.parent.mkdir()
    lines = [{"step": 10, "loss": 2.5, "memory_gib": 1.5}, {"step": 20, "loss": 1.5, "memory_gib": 1.75}]
    (tmp_path / "t" / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    predict.output.write_text("".join(json.dumps(answer) + "\n" for answer in ANSWERS))
    for step, seconds in ((train, [None, 100.0]), (predict, [20.0])):
        attempts = [{"begun": 0, "seconds": one, **({"lost": 25.0} if one is None else {})} for one in seconds]
        step.record.write_text(json.dumps({"command": step.line, "attempts": attempts}))
    score.output.write_text(
        json.dumps(
            {
                "task": "ocr",
                "answers_file": "answers.jsonl",
                "scores": {"cer": 0.5, "exact_match": 0.25},
                "answers": 4,
                "measured": 4,
                "unfinished": 1,
                "errors": {"cer": {"errors": 6, "length": 12}},
            }
        )
    )
    steps = {"train": train, "predict": predict, "score": score}
    return Entry("model", "full", MODEL, RunConfig("plugin", "folder", "out"), steps)


@pytest.fixture
def results(entry) -> list[Result]:
    good = read_result(entry, Counts(1_056_960, 163_072, 64.0), Normalisation(), worst=3)
    failed = Entry("model", "lora", MODEL, None, entry.steps)
    failure = Failure("train", 'out of "memory", sorry', Path("train.log"))
    return [good, Result(failed, Counts(10, 5, None), failure=failure)]


def test_the_figures_of_an_entry(results):
    good = results[0]
    assert (good.cer, good.edits, good.exact, good.unfinished) == (0.5, 1.5, 0.25, 1)
    assert (good.train_seconds, good.predict_seconds, good.memory_gib) == (125.0, 20.0, 1.75)
    assert good.losses == [(10.0, 2.5), (20.0, 1.5)]
    assert [(one.id, one.reference, one.edits) for one in good.worst] == [
        ("p3", "say", 11),
        ("p2", "xyzw", 4),
        ("p4", "ax", 1),
    ]


def test_what_does_not_count_is_no_error(entry):
    found = read_result(entry, Counts(1, 1, None), Normalisation(ignore_case=True), worst=9)
    assert [one.id for one in found.worst] == ["p3", "p2"]


def test_the_table_is_read_back_as_it_was(results, tmp_path):
    write_csv(tmp_path / "results.csv", results)
    with (tmp_path / "results.csv").open(newline="") as file:
        good, failed = csv.DictReader(file)
    assert (good["model"], float(good["cer"]), int(good["trained_parameters"])) == ("model", 0.5, 163_072)
    assert good["failure"] == ""
    assert (failed["cer"], failed["failure"]) == ("", 'train: out of "memory", sorry')


def test_the_best_is_marked_where_entries_differ(results):
    good = results[0]
    other = Result(good.entry, good.counts, cer=0.25, edits=1.5, exact=0.5, memory_gib=2.0)
    assert best_values([good, other]) == {"cer": 0.25, "exact_match": 0.5, "peak_memory_gib": 1.75}
    assert best_values([good]) == {}


def test_the_page(results, tmp_path):
    Image.new("RGB", (1280, 720), (10, 200, 30)).save(tmp_path / "p3.jpg")
    Image.new("RGB", (40, 30)).save(tmp_path / "p2.png")
    records = {
        id: Record(id, (Message("user", (ImageRef("path", name), "What?")),))
        for id, name in (("p3", "p3.jpg"), ("p2", "p2.png"))
    }
    comparison = Comparison(str(tmp_path / "<out>"), ComparisonData("a", "b"), {"model": MODEL}, {"full": {}})
    write_page(tmp_path / "report.html", comparison, results, 4, records, ImageOpener(tmp_path))
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Comparison: &lt;out&gt;" in page
    assert "folder &lt;b&gt;" in page
    assert page.count("data:image/jpeg;base64,") == 2
    assert not re.search(r'(src|href)="(?!data:|#)', page), "the page asks for other files"
    for text in ("2 min 05 s", "1.75 GiB", "163 k", "1.06 M", "25.0%", "&lt;i&gt;", "(nothing)", "<svg", "11 edits"):
        assert text in page, text
    assert "train failed: out of &#34;memory&#34;, sorry (train.log)" in page
