"""Scores of the original programs, where their outputs are on this machine."""

from __future__ import annotations

import json

import pytest

from polylens.generation.scoring.measures import BENCHMARK_MEASURES
from polylens.generation.scoring.quirks import QUIRKS
from polylens.generation.scoring.vqa_text import evalai_text, vqa_text

ALL = frozenset(QUIRKS)


@pytest.fixture
def cases(golden):
    """Cases of a file of scores."""

    def read(name):
        path = golden / "llava_remgcl" / "samples" / f"metrics_{name}.json"
        return json.loads(path.read_text(encoding="utf-8"))["cases"]

    return read


def score(name, answer, references, compat=ALL):
    given = references if isinstance(references, list) else [references]
    return BENCHMARK_MEASURES[name].score(answer, [str(one) for one in given], compat)


def test_words_of_vqa(cases):
    changed = []
    for case in cases("mmocr_vqaeval"):
        assert vqa_text(case["answer"], ALL) == case["processed_answer"]
        assert score("vqa_words", case["answer"], case["gt_answers"]) == case["score"]
        right = score("vqa_words", case["answer"], case["gt_answers"], ())
        changed += [(case["gt_answers"], right)] if right != case["score"] else []
    assert changed == [(["$5"], 1), (["the"], 0), ([""], 1), (["10%"], 1)], "only known quirks are corrected"


def test_words_of_pictures(cases):
    changed = []
    for case in cases("mmocr_ocr"):
        assert score("ocr_words", case["answer"], case["gt"]) == case["score"]
        changed += [case["answer"]] if score("ocr_words", case["answer"], case["gt"], ()) != case["score"] else []
    assert changed == ["hello", ""]


def test_ocrbench(cases):
    for case in cases("ocrbench_v1"):
        name = "ocrbench_formula" if case["dataset_name"] == "HME100k" else "ocrbench"
        for compat in (ALL, ()):
            assert score(name, case["predict"], case["answers"], compat) == case["score"]


def test_the_vqa_metric_of_ocrbench_v2(cases):
    for case in cases("ocrbench_v2_vqa"):
        for name, value in (("ocrbench_v2", case["vqa"]), ("ocrbench_v2_case", case["case_sensitive"])):
            for compat in (ALL, ()):
                assert score(name, case["predict"], case["answers"], compat) == pytest.approx(value, abs=1e-12)


def test_m4c(cases):
    for case in cases("llava_m4c"):
        assert evalai_text(case["pred"], ALL) == case["processed"]
        for name in ("textvqa_soft_acc", "stvqa_acc", "stvqa_anls"):
            measure = {"textvqa_soft_acc": "textvqa_accuracy", "stvqa_acc": "stvqa_accuracy"}.get(name, name)
            for compat in (ALL, ()):
                assert score(measure, case["pred"], case["gt"], compat) == pytest.approx(case[name], abs=1e-12)
