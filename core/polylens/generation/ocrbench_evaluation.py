"""OCRBench, v1 and v2: the tasks, their measures and their sums; what ``polylens evaluate ocrbench`` does."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from polylens.errors import InputError
from polylens.generation.benchmark_scores import BenchmarkAnswer, BenchmarkScores, means, score_answers
from polylens.generation.formats.answer_files import ANSWER_FORMATS, read_answer_values

log = logging.getLogger(__name__)

RECOGNITION = (
    "Regular Text Recognition",
    "Irregular Text Recognition",
    "Artistic Text Recognition",
    "Handwriting Recognition",
    "Digit String Recognition",
    "Non-Semantic Text Recognition",
)
PARTS = {
    "Text Recognition": RECOGNITION,
    "Scene Text-centric VQA": ("Scene Text-centric VQA",),
    "Doc-oriented VQA": ("Doc-oriented VQA",),
    "Key Information Extraction": ("Key Information Extraction",),
    "Handwritten Mathematical Expression Recognition": ("Handwritten Mathematical Expression Recognition",),
}
"""What the final score of OCRBench adds up, and the tasks that each is made of."""

FINAL = "Final Score"
QUESTIONS = 1000
"""Of ``OCRBench.json``, over which published scores are."""

_ASKED = (
    *("APP agent en", "ASCII art classification en", "math QA en", "reasoning VQA en", "science QA en"),
    *("text recognition en", "document classification en", "cognition VQA en", "diagram QA en"),
)
_ASKED_IN_CHINESE = ("cognition VQA cn", "reasoning VQA cn")
_BY_EVAL = {
    "multiple choice": "ocrbench_v2_choice",
    "case sensitive": "ocrbench_v2_case",
    "exact match": "ocrbench_v2_count",
    "regression": "ocrbench_v2_number",
}
_TASKS = {
    **dict.fromkeys(_ASKED, "ocrbench_v2"),
    **dict.fromkeys(_ASKED_IN_CHINESE, "ocrbench_v2_chinese"),
    "formula recognition en": "ocrbench_formula",
    "formula recognition cn": "ocrbench_chinese_formula",
}
"""Tasks of v2 that the VQA metric scores, where ``eval`` says nothing else."""

_COUNTING = "text counting en"
_EVALS = {_COUNTING: ("exact match", "regression")} | dict.fromkeys(
    (*_ASKED, *_ASKED_IN_CHINESE), ("multiple choice", "case sensitive")
)
_OTHER_TASKS = (
    *("key information extraction en", "key information mapping en", "full-page OCR en", "table parsing en"),
    *("fine-grained text recognition en", "text grounding en", "text spotting en", "VQA with position en"),
    *("chart parsing en", "document parsing en", "key information extraction cn", "full-page OCR cn"),
    *("text translation cn", "table parsing cn", "handwritten answer extraction cn", "document parsing cn"),
)
"""Tasks of v2 that need TEDS, IoU, BLEU and other measures."""

ABILITIES = {
    "mathematical calculation, English": ("math QA en", _COUNTING),
    "visual text understanding, English": ("document classification en", "cognition VQA en", "diagram QA en"),
    "knowledge reasoning, English": (
        *("reasoning VQA en", "science QA en", "APP agent en", "ASCII art classification en"),
    ),
    "visual text understanding, Chinese": ("cognition VQA cn",),
}
"""The abilities of v2 all of whose tasks the VQA metric scores."""


def evaluate_ocrbench(paths: Sequence[Path], *, compat: Sequence[str] | None = None) -> BenchmarkScores:
    """Points of OCRBench by data set and part, or means of the tasks of v2 that the VQA metric scores.

    Args:
        paths: files of questions with ``predict``.
        compat: as for ``chosen_quirks``.

    Raises:
        InputError: answers of another format, of both versions, or to a task that does not exist.
    """
    values = [found for path in paths for found in read_answer_values(path, "ocrbench")[1]]
    second = {_is_v2(value["type"]) for value, _ in values}
    if len(second) > 1:
        raise InputError("the answers are to questions of OCRBench and of OCRBench v2; measure them one by one")
    return _evaluate_v2(values, compat) if second.pop() else _evaluate_v1(values, compat)


def _is_v2(task: str) -> bool:
    return task.endswith((" en", " cn"))


def _evaluate_v1(values: Sequence[tuple[Mapping[str, Any], str]], compat: Sequence[str] | None) -> BenchmarkScores:
    answers = [_answer(value, where, value["dataset_name"], _measure_v1(value)) for value, where in values]
    found = score_answers(answers, compat)
    points = dict.fromkeys([*RECOGNITION, *PARTS], 0.0)
    unknown = next(((where, value["type"]) for value, where in values if value["type"] not in points), None)
    if unknown is not None:
        log.warning("%s: /type: %r is no task of OCRBench, so there are no totals", *unknown)
        return found
    for (value, _), one in zip(values, found.per_answer, strict=True):
        points[value["type"]] += one.value
    points["Text Recognition"] = sum(points[task] for task in RECOGNITION)
    return replace(found, totals={**points, FINAL: sum(points[part] for part in PARTS)})


def _measure_v1(value: Mapping[str, Any]) -> str:
    return "ocrbench_formula" if value["dataset_name"] == "HME100k" else "ocrbench"


def _evaluate_v2(values: Sequence[tuple[Mapping[str, Any], str]], compat: Sequence[str] | None) -> BenchmarkScores:
    measures = [_measure_v2(value, where) for value, where in values]
    answers = [
        _answer(value, where, value["type"], measure)
        for (value, where), measure in zip(values, measures, strict=True)
        if measure is not None
    ]
    left = [value["type"] for (value, _), measure in zip(values, measures, strict=True) if measure is None]
    found = score_answers(answers, compat)
    counts = {task: left.count(task) for task in dict.fromkeys(left)}
    return replace(found, totals=means(found.per_answer, ABILITIES), not_measured=counts)


def _measure_v2(value: Mapping[str, Any], where: str) -> str | None:
    task, told = value["type"], value.get("eval")
    if task in _OTHER_TASKS:
        return None
    if task not in _TASKS and task != _COUNTING:
        raise InputError(f"{where}: /type: {task!r} is no task of OCRBench v2")
    allowed = _EVALS.get(task)
    if allowed is None or (told is None and task != _COUNTING):
        return _TASKS[task]
    if told is None or told not in allowed:
        raise InputError(f"{where}: /eval: {told!r} is no way to score {task!r}; there are: {', '.join(allowed)}")
    return _BY_EVAL[told]


def _answer(value: Mapping[str, Any], where: str, group: str, measure: str) -> BenchmarkAnswer:
    """References that are one string stay so: v2's program treats them in another way."""
    given = value["answers"]
    for one in given if isinstance(given, list) else [given]:
        if not isinstance(one, str | int | float):
            raise InputError(f"{where}: /answers: {one!r:.80} is no text that {group!r} could be measured against")
    read = ANSWER_FORMATS["ocrbench"].read(value, where)
    keep = isinstance(given, str) and measure in ("ocrbench_v2", "ocrbench_v2_case", "ocrbench_v2_chinese")
    return BenchmarkAnswer(read.id, group, measure, read.answer, given if keep else read.references, where)
