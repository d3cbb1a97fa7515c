"""``polylens evaluate ocr`` and ``vqa``, from files to figures."""

from __future__ import annotations

import json

import pytest

from polylens.cli import main
from polylens.config import schemas

ANSWERS = [
    {"id": "a", "answer": "red  bar", "references": ["red bar"], "finished": True},
    {"id": "b", "answer": "Blue", "references": ["green", "blue"], "finished": False},
    {"id": 3, "answer": "noise", "references": [""]},
    {"id": "d", "answer": "who knows", "references": []},
]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write("answers.jsonl", ANSWERS)
    return tmp_path


def write(name, lines):
    with open(name, "w") as file:
        file.writelines(f"{json.dumps(line)}\n" for line in lines)


def evaluate(task, *more):
    assert main(["evaluate", task, "--answers", "answers.jsonl", "--output", "scores.json", *more]) == 0
    with open("scores.json") as file:
        found = json.load(file)
    assert schemas.errors("text_scores", found) == []
    return found


def test_ocr(folder, capsys):
    found = evaluate("ocr", "--per-answer", "each.tsv")
    # one letter of "Blue" and all five of "noise" over "red bar", "blue" and ""; words: "Blue" and "noise" over three
    assert found["scores"] == {
        "cer": pytest.approx(6 / 11),
        "wer": pytest.approx(2 / 3),
        "edit_distance": pytest.approx((0 + 1 / 4 + 1) / 3),
        "exact_match": pytest.approx(1 / 3),
        "word_match": pytest.approx(2 / 3),
    }
    assert found["errors"] == {"cer": {"errors": 6, "length": 11}, "wer": {"errors": 2, "length": 3}}
    counts = ("answers", "measured", "without_references", "empty_references", "unfinished")
    assert [found[name] for name in counts] == [4, 3, 1, 1, 1]
    printed = capsys.readouterr().out
    assert "0.5455" in printed
    assert "answers without references, left out: 1" in printed
    assert "3 answers measured, written to scores.json and each.tsv" in printed
    assert (folder / "each.tsv").read_text().splitlines()[:2] == [
        "id\tedit_distance\texact_match\tword_match",
        "a\t0\t1\t1",
    ]


def test_vqa_ignores_case(folder):
    assert evaluate("vqa")["scores"] == pytest.approx({"anls": 2 / 3, "exact_match": 2 / 3, "word_match": 2 / 3})
    assert evaluate("vqa", "--case", "keep")["scores"]["exact_match"] == pytest.approx(1 / 3)


def test_references_of_a_file_of_their_own(folder):
    write("refs.jsonl", [{"id": str(line["id"]), "references": ["x", line["answer"]]} for line in ANSWERS])
    found = evaluate("vqa", "--references", "refs.jsonl", "--measures", "cer", "exact_match")
    assert found["scores"] == {"cer": 0, "exact_match": 1}
    assert found["references_file"] == "refs.jsonl"


def test_an_error_rate_over_nothing_is_none(folder, capsys):
    write("answers.jsonl", ANSWERS[2:3])
    assert evaluate("ocr")["scores"]["cer"] is None
    assert "no reference has any text" in capsys.readouterr().out


WRONG = [
    (
        [],
        {"references": [{"id": "a", "references": ["x"]}]},
        "answers.jsonl:2: refs.jsonl has no references for id 'b'",
    ),
    ([], {"references": [{"id": "a", "references": []}] * 2}, "refs.jsonl:2: id 'a' is there twice"),
    ([], {"answers": [{"id": "a", "anser": "x"}]}, "answers.jsonl:1: /: 'answer' is a required property"),
    ([], {"answers": [{"id": "a", "answer": "x"}]}, "no answer has a reference"),
    ([], {"answers": []}, "answers.jsonl has no answers"),
    (["--measures", "bleu"], {}, "no measure 'bleu'"),
]


@pytest.mark.parametrize(("more", "files", "message"), WRONG, ids=[case[2][-20:] for case in WRONG])
def test_bad_input_is_named(folder, capsys, more, files, message):
    if "answers" in files:
        write("answers.jsonl", files["answers"])
    if "references" in files:
        write("refs.jsonl", files["references"])
        more = [*more, "--references", "refs.jsonl"]
    assert main(["evaluate", "ocr", "--answers", "answers.jsonl", *more]) == 2
    assert message in capsys.readouterr().err
