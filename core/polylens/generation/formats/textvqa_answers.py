"""Answers in LLaVA's format to questions of TextVQA, with the references of its annotations."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from polylens.errors import InputError
from polylens.generation.answers import AnsweredQuestion
from polylens.generation.formats.answer_files import read_answers
from polylens.generation.formats.items import Item
from polylens.generation.formats.textvqa import TEXTVQA

_TOKENS = "Reference OCR token"


def annotated_answers(paths: Sequence[Path], annotations: Path) -> list[AnsweredQuestion]:
    """Answers with their references.

    A question is found by the id of its picture, or its own, and its words, as LLaVA's ``eval_textvqa.py`` finds it.
    Of annotations that agree in these the last one counts, as there.

    Args:
        annotations: ``TextVQA_0.5.1_val.json``.

    Raises:
        InputError: a prompt that is not of one of LLaVA's forms, or a question without annotation.
    """
    known: dict[tuple[str, str], Item] = {}
    for item in TEXTVQA.read(annotations, None):
        picture = (item.image or "").removesuffix(".jpg")
        known |= dict.fromkeys([(item.id, item.question.lower()), (picture, item.question.lower())], item)
    found = []
    for path in paths:
        for answer in read_answers(path, format="llava"):
            asked = question_of(answer.question, answer.where)
            if (answer.id, asked) not in known:
                raise InputError(f"{answer.where}: {annotations} has no question {asked!r:.120} of {answer.id!r}")
            found.append(replace(answer, references=known[answer.id, asked].references))
    return found


def question_of(prompt: str, where: str) -> str:
    """The question in a prompt of LLaVA, in lower case: without OCR tokens and instructions.

    Raises:
        InputError: the prompt has another form.

    >>> question_of("What brand?\\nReference OCR token: ACME\\nAnswer the question using a single word.", "")
    'what brand?'
    """
    lines = prompt.split("\n")
    if prompt.startswith("OCR tokens: "):
        found = re.search(r"Question: (.*?) Short answer:", prompt, re.DOTALL)
        question = found[1] if found else None
    elif len(lines) == 3 and f"{_TOKENS}: " in prompt:
        question = lines[1] if prompt.startswith(_TOKENS) else lines[0]
    else:
        question = lines[0] if len(lines) < 3 else None
    if question is None:
        raise InputError(
            f"{where}: /prompt: {prompt!r:.120} is no prompt of LLaVA's for TextVQA: the question, a line of "
            f"'{_TOKENS}: ...' before or after it, and a line of instructions"
        )
    return question.lower()
