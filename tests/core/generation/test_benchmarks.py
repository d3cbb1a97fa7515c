"""``polylens evaluate textvqa``, ``mmocr`` and ``ocrbench``, from files to figures."""

from __future__ import annotations

import json

import pytest

from polylens.cli import main
from polylens.config import schemas
from polylens.generation.mmocr_evaluation import DATA_SETS
from polylens.generation.ocrbench_evaluation import (
    _ASKED,
    _ASKED_IN_CHINESE,
    _COUNTING,
    _OTHER_TASKS,
    _TASKS,
    ABILITIES,
    RECOGNITION,
)
from polylens.generation.scoring.measures import BENCHMARK_MEASURES


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(name, values):
    with open(name, "w") as file:
        json.dump(values, file)


def evaluate(task, *more):
    assert main(["evaluate", task, "--output", "scores.json", "--per-answer", "each.tsv", "--answers", *more]) == 0
    with open("scores.json") as file:
        found = json.load(file)
    assert schemas.errors("benchmark_scores", found) == []
    return found


def refused(capsys, task, *more):
    assert main(["evaluate", task, "--answers", *more]) == 2
    return capsys.readouterr().err


def mmocr(*pairs):
    return [{"question": "?", "answer": a, "gt_answers": g, "image_path": "p", "model_name": "m"} for a, g in pairs]


def test_mmocr(folder, capsys):
    write("textVQA.json", mmocr(("It costs $5.", ["$5"]), ("no", ["yes"]), ("sure", ["the"])))
    write("IAM.json", mmocr(("The word Hello!", "hello")))
    write("ReCTS.json", mmocr(("是中文", "中文"), ("no", "中文")))
    write("HME.json", mmocr(("a+b", "a + b\n")))
    files = ["textVQA.json", "IAM.json", "ReCTS.json", "HME.json"]
    found = evaluate("mmocr", *files, "--result", "result.json")
    assert found["scores"]["textVQA"] == {"score": pytest.approx(1 / 3), "answers": 3, "measures": ["vqa_words"]}
    assert (found["compat"], found["answers"], found["answers_files"]) == ([], 7, files)
    with open("result.json") as file:
        assert json.load(file) == {"textVQA": pytest.approx(1 / 3), "IAM": 1, "ReCTS": 0.5, "HME": 1}
    assert (folder / "each.tsv").read_text().splitlines()[:2] == [
        "id\tgroup\tmeasure\tvalue",
        "p\ttextVQA\tvqa_words\t1",
    ]
    assert "7 answers measured" in capsys.readouterr().out
    found = evaluate("mmocr", *files, "--compat")
    assert found["scores"]["textVQA"]["score"] == pytest.approx(1 / 3), "$5 is lost, and any article is found"
    assert found["compat"] == ["empty_reference", "word_boundary", "period_count", "narrow_letters"]
    found = evaluate("mmocr", *files, "--compat", "empty_reference")
    assert (found["scores"]["textVQA"]["score"], found["compat"]) == (pytest.approx(2 / 3), ["empty_reference"])


def test_data_sets_of_mmocr(capsys):
    assert set(DATA_SETS.values()) < BENCHMARK_MEASURES.keys()
    write("mine.json", mmocr(("x", "x")))
    assert "'mine' is no data set of MultimodalOCR" in refused(capsys, "mmocr", "mine.json")
    assert evaluate("mmocr", "mine.json", "--data-set", "svt")["scores"]["svt"]["score"] == 1
    assert "answers to svt are given twice" in refused(capsys, "mmocr", "svt.json", "other/svt.json")
    assert "names one file" in refused(capsys, "mmocr", "mine.json", "mine.json", "--data-set", "svt")
    assert "did you mean 'svt'" in refused(capsys, "mmocr", "mine.json", "--data-set", "svtt")
    write("svt.json", mmocr(("x", [])))
    assert "svt.json:1: there is nothing to measure the answer against" in refused(capsys, "mmocr", "svt.json")


def test_textvqa(capsys):
    ten = ["acme"] * 2 + ["the ACME"] + ["b"] * 7
    write("own.json", mmocr(("Acme.", ten), ("c", ten)))
    assert evaluate("textvqa", "own.json")["scores"]["TextVQA"]["score"] == pytest.approx(0.45)
    write("t.json", {"data": [{"question": "Who?", "image_id": "p", "question_id": 1, "answers": ten}]})
    write("a.jsonl", {"question_id": "p", "prompt": "Who?\nBriefly.", "text": "b"})
    found = evaluate("textvqa", "a.jsonl", "--annotations", "t.json")
    assert (found["scores"]["TextVQA"]["score"], found["annotations_file"]) == (1, "t.json")
    assert "give --annotations" in refused(capsys, "textvqa", "a.jsonl")
    write("nine.json", mmocr(("b", ["b"] * 9)))
    assert "nine.json:1: soft accuracy is defined over 10 answers" in refused(capsys, "textvqa", "nine.json")
    assert "--compat counting changes nothing" in refused(capsys, "textvqa", "own.json", "--compat", "counting")


def bench(task, predict, answers, data_set="svt", **more):
    value = {"dataset_name": data_set, "id": 1, "image_path": "p", "question": "?", "answers": answers}
    return {**value, "type": task, "predict": predict, **more}


def test_ocrbench(capsys):
    formula = "Handwritten Mathematical Expression Recognition"
    write(
        "one.json",
        [
            bench(RECOGNITION[0], "It is CENTRE.", "centre"),
            bench(RECOGNITION[0], None, "centre", "IIIT5K"),
            bench(RECOGNITION[4], "12", ["13", "12"]),
            bench("Doc-oriented VQA", "", "", "docVQA"),
            bench(formula, "a+b", "a + b", "HME100k"),
            bench(formula, "A+B", ["a + b"], "HME100k"),
        ],
    )
    found = evaluate("ocrbench", "one.json")
    assert {name: (group["score"], group["answers"]) for name, group in found["scores"].items()} == {
        "svt": (1, 2),
        "IIIT5K": (0, 1),
        "docVQA": (1, 1),
        "HME100k": (0.5, 2),
    }
    totals = found["totals"]
    assert (totals[RECOGNITION[0]], totals["Text Recognition"], totals[formula], totals["Final Score"]) == (1, 2, 1, 4)
    assert "Final Score" in capsys.readouterr().out
    write("one.json", [bench("Some task", "x", "x")])
    assert evaluate("ocrbench", "one.json")["totals"] == {}


def test_the_vqa_metric_of_ocrbench_v2(capsys):
    values = [
        bench("cognition VQA en", "The Hobbit", ["hobbit"]),
        bench("cognition VQA en", "The Hobbit", ["hobbit"], eval="case sensitive"),
        bench("science QA en", "B.", ["B"], eval="multiple choice"),
        bench("text counting en", "there are 12", ["2"], eval="exact match"),
        bench("text counting en", "9", [10], eval="regression"),
        bench("math QA en", 7, ["7"]),
        bench("formula recognition en", "x ^ 2", ["x^2"], eval="any"),
        bench("formula recognition cn", "\\text{是}", ["是"]),
        bench("cognition VQA cn", "红 色", ["红色"]),
        bench("text spotting en", "x", [[1, 2]]),
        bench("text spotting en", "x", {}),
    ]
    write("two.json", values)
    found = evaluate("ocrbench", "two.json")
    assert {name: group["score"] for name, group in found["scores"].items()} == {
        "cognition VQA en": 0.5,
        "science QA en": 1,
        "text counting en": pytest.approx(0.45),
        "math QA en": 1,
        "formula recognition en": 1,
        "formula recognition cn": 1,
        "cognition VQA cn": 1,
    }
    assert found["totals"] == {
        "mathematical calculation, English": pytest.approx(1.9 / 3),
        "visual text understanding, English": 0.5,
        "knowledge reasoning, English": 1,
        "visual text understanding, Chinese": 1,
    }
    assert (found["not_measured"], found["answers"]) == ({"text spotting en": 2}, 9)
    assert "answers to 'text spotting en', which needs other measures: 2" in capsys.readouterr().out
    assert evaluate("ocrbench", "two.json", "--compat")["scores"]["text counting en"]["score"] == pytest.approx(0.95)


def test_every_task_of_ocrbench_v2_has_its_place():
    measured = {*_TASKS, _COUNTING}
    assert len(measured) + len(_OTHER_TASKS) == 30
    assert measured.isdisjoint(_OTHER_TASKS)
    assert {task for tasks in ABILITIES.values() for task in tasks} < measured
    assert set(_TASKS.values()) < BENCHMARK_MEASURES.keys()
    assert {*_ASKED, *_ASKED_IN_CHINESE} < measured


WRONG = [
    ([bench("cognition VQA en", "x", "x"), bench("Doc-oriented VQA", "x", "x")], "of OCRBench and of OCRBench v2"),
    ([bench("no task en", "x", "x")], "one.json:1: /type: 'no task en' is no task of OCRBench v2"),
    (
        [bench("math QA en", "x", "x", eval="y")],
        "one.json:1: /eval: 'y' is no way to score 'math QA en'; there are: mul",
    ),
    ([bench("text counting en", "x", "x")], "/eval: None is no way to score 'text counting en'"),
    ([bench("text counting en", "1", "x", eval="regression")], "one.json:1: 'x' is not a whole number"),
    ([bench("math QA en", "x", [[]])], "one.json:1: /answers: [] is no text"),
    ([bench("math QA en", "x", [])], "one.json:1: there is nothing to measure"),
    ([bench("text spotting en", "x", [])], "no answer is to a task that can be measured"),
    ([{"id": 1, "answer": "x"}], "one.json:1: /: 'dataset_name' is a required property"),
    ([bench("math QA en", ["x"], "x")], "one.json:1: /predict: ['x'] is not of type 'string', 'number', 'null'"),
]


@pytest.mark.parametrize(("values", "message"), WRONG)
def test_bad_answers_to_ocrbench(capsys, values, message):
    write("one.json", values)
    assert message in refused(capsys, "ocrbench", "one.json")


def test_measures_of_benchmarks_for_any_answers():
    with open("a.jsonl", "w") as file:
        file.write(json.dumps({"id": 1, "answer": "It costs $5.", "references": ["$5"]}) + "\n")
    command = ["evaluate", "vqa", "--answers", "a.jsonl", "--output", "scores.json"]
    for compat, value in (([], 1), (["--compat"], 0)):
        assert main([*command, "--measures", "vqa_words", "anls", "stvqa_anls", *compat]) == 0
        with open("scores.json") as file:
            found = json.load(file)
        assert schemas.errors("text_scores", found) == []
        assert (found["scores"]["vqa_words"], list(found["scores"])) == (value, ["vqa_words", "anls", "stvqa_anls"])
        assert bool(found["compat"]) == bool(compat)
    assert main([*command, "--measures", "textvqa_accuracy"]) == 2
    assert main([*command, "--compat"]) == 2, "the measures of the command have no quirks"
