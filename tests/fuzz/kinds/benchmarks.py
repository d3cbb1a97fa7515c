"""Questions of benchmarks in all their formats, and files of answers to them."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from formats_of_benchmarks import LAYOUTS, write_layout
from fuzz.kinds.lines import mutated
from fuzz.mutators import dump, mutate_bytes, mutate_lines, mutate_value, several
from fuzz.outcome import require

from polylens.errors import InputError
from polylens.generation.formats.answer_files import (
    ANSWER_FORMATS,
    Author,
    read_answer_values,
    read_answers,
    write_answer_values,
)
from polylens.generation.formats.items import BadItems
from polylens.generation.formats.registry import QUESTION_FORMATS
from polylens.generation.generator import Answer
from polylens.generation.mmocr_evaluation import evaluate_mmocr
from polylens.generation.ocrbench_evaluation import evaluate_ocrbench
from polylens.generation.prompts import Question, benchmark_question


class QuestionsFile:
    """A file or folder of any format."""

    def __init__(self, base: Path) -> None: ...

    def write(self, rng: random.Random, folder: Path) -> None:
        name = rng.choice(sorted(LAYOUTS))
        given, _ = write_layout(folder, name)
        (folder / "format").write_text(f"{name}\n{given.relative_to(folder)}")
        path = folder / next(iter(LAYOUTS[name][1]))
        if rng.random() < 0.8:
            path.write_bytes(_changed(rng, path.read_bytes()))

    def read(self, folder: Path) -> int:
        name, given = (folder / "format").read_text().split("\n")
        format, bad = QUESTION_FORMATS[name], BadItems()
        questions = self._questions(list(format.read(folder / given, bad)), bad)
        require(len({one.record.where for one in questions}) == len(questions), "two questions have one place")
        bad.write([], folder / "aside.jsonl")
        aside = [json.loads(line) for line in (folder / "aside.jsonl").read_text(encoding="utf-8").split("\n")[:-1]]
        require([line["where"] for line in aside] == list(bad.errors), "a bad entry was not set aside")
        require(all(line["reason"] for line in aside), "a bad entry has no reason")
        self._answer(folder, format.answers, questions)
        return len(bad.errors)

    def _questions(self, items: Sequence[Any], bad: BadItems) -> list[Question]:
        found = []
        for item in items:
            try:
                found.append(benchmark_question(item))
            except InputError as error:
                bad.add(item, error)
            else:
                require(item.question in _said(found[-1]) or "<image>" in item.question, "another question")
        return found

    def _answer(self, folder: Path, name: str, questions: list[Question]) -> None:
        """What is written is read again."""
        questions = [one for one in questions if one.item is not None and (name != "mmocr" or one.item.image)]
        if not questions:
            return
        format, path = ANSWER_FORMATS[name], folder / "answers"
        format.check(questions)
        answered = [format.make(one, Answer("said 中", 1, True), Author("m", folder)) for one in questions]
        write_answer_values(path, format, answered)
        again, values = read_answer_values(path)
        require(again is format and [value for value, _ in values] == answered, "other answers were read")

    def commands(self, folder: Path) -> Sequence[Sequence[str]]:
        name, given = (folder / "format").read_text().split("\n")
        predict = ["predict", "--model-plugin", "minicpmv", "--model", "tiny", "--num-workers", "0", "--device", "cpu"]
        predict += ["--max-new-tokens", "1", "--on-bad-record", "quarantine", "--output", str(folder / "made.json")]
        return [
            [*predict, "--input", str(folder / given)],
            [*predict, "--input", str(folder / given), "--format", name],
        ]


def _said(asked: Question) -> str:
    return "".join(part for part in asked.record.messages[0].parts if isinstance(part, str))


def _changed(rng: random.Random, data: bytes) -> bytes:
    """A file with a value of its JSON changed, or some of its bytes or lines."""
    try:
        value = json.loads(data)
    except ValueError:
        return several(rng, rng.choice([mutate_bytes, mutate_lines]), data)
    if rng.random() < 0.25:
        return several(rng, mutate_bytes, data)
    return dump(several(rng, mutate_value, value)).encode("utf-8", errors="surrogatepass")


ANSWERS: dict[str, list[Any]] = {
    "llava": [
        {"question_id": 1, "prompt": "Which?\nBriefly.", "text": "red", "answer_id": "x", "model_id": "m"},
        {"question_id": "2", "prompt": "Größe?", "text": "", "metadata": {}},
    ],
    "mmocr": [
        {"question": "?", "answer": "It costs $5.", "gt_answers": ["$5", "the"], "image_path": "a.png"},
        {"question": "?", "answer": "中文 two", "gt_answers": "2", "image_path": "a.png", "model_name": "m"},
    ],
    "ocrbench": [
        {"dataset_name": "svt", "id": 1, "image_path": "p", "question": "?", "answers": ["CENTRE"]}
        | {"type": "Regular Text Recognition", "predict": "It is CENTRE"},
        {"dataset_name": "HME100k", "id": 2, "image_path": "p", "question": "?", "answers": "a + b"}
        | {"type": "Handwritten Mathematical Expression Recognition", "predict": None},
    ],
    "ocrbench v2": [
        {"dataset_name": "x", "id": 1, "image_path": "p", "question": "?", "answers": [7, "8"]}
        | {"type": "text counting en", "predict": "about 7", "eval": "regression"},
        {"dataset_name": "x", "id": 2, "image_path": "p", "question": "?", "answers": "a b c d e"}
        | {"type": "cognition VQA cn", "predict": 5, "eval": "case sensitive"},
        {"dataset_name": "x", "id": 3, "image_path": "p", "question": "?", "answers": {"a": [1]}}
        | {"type": "text spotting en", "predict": ""},
    ],
}


class BenchmarkAnswersFile:
    """Answers of LLaVA's, MultimodalOCR's and OCRBench's formats."""

    def __init__(self, base: Path) -> None: ...

    def write(self, rng: random.Random, folder: Path) -> None:
        name = rng.choice(sorted(ANSWERS))
        values = ANSWERS[name]
        if name == "llava" or rng.random() < 0.3:
            data = mutated(rng, values)
        else:
            data = _changed(rng, dump(values).encode()) if rng.random() < 0.7 else dump(values).encode()
        (folder / "svt.json").write_bytes(data)

    def read(self, folder: Path) -> int:
        path = folder / "svt.json"
        format, values = read_answer_values(path)
        answers = read_answers(path)
        require(len(answers) == len(values), "answers were lost")
        if format.name == "llava":
            said = [value["text"] for value, _ in values]
            require([one.answer for one in answers] == said, "another answer")
            return 0
        for compat in (None, []):
            measure = evaluate_ocrbench if format.name == "ocrbench" else evaluate_mmocr
            found = measure([path], compat=compat)
            count = len(found.per_answer) + sum(found.not_measured.values())
            require(count == len(values), "an answer was neither measured nor counted")
            require(all(0 <= one.value <= 1 for one in found.per_answer), "a score is not of 0 to 1")
        return 0

    def commands(self, folder: Path) -> Sequence[Sequence[str]]:
        path = str(folder / "svt.json")
        more = ["--answers", path, "--output", str(folder / "s.json"), "--per-answer", str(folder / "s.tsv")]
        return [["evaluate", task, *more] for task in ("mmocr", "ocrbench", "textvqa")]
