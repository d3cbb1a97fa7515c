"""MultimodalOCR's data sets and TextVQA: what ``polylens evaluate mmocr`` and ``textvqa`` do."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from polylens.errors import InputError, closest
from polylens.generation.benchmark_scores import BenchmarkAnswer, BenchmarkScores, score_answers
from polylens.generation.formats.answer_files import read_answers
from polylens.generation.formats.textvqa_answers import annotated_answers

_ASKING = ("textVQA", "docVQA", "ocrVQA", "STVQA", "ESTVQA", "ESTVQA_CN", "ESTVQA_EN", "SROIE", "FUNSD", "POIE")
_READING = (
    *("IIIT5K", "svt", "IC13_857", "IC15_1811", "svtp", "ct80", "cocotext", "ctw", "totaltext", "HOST", "WOST"),
    *("WordArt", "IAM"),
)
DATA_SETS = {
    **dict.fromkeys(_ASKING, "vqa_words"),
    **dict.fromkeys(_READING, "ocr_words"),
    "ReCTS": "han_text",
    "HME": "formula",
}
"""The measure of every data set of MultimodalOCR."""


def evaluate_mmocr(
    paths: Sequence[Path],
    *,
    data_set: str | None = None,
    format: str | None = None,
    compat: Sequence[str] | None = None,
) -> BenchmarkScores:
    """Share of answers that hold a reference, by data set.

    Args:
        paths: a file a data set; its name says which one it is, as in ``textVQA.json``.
        data_set: which one it is instead, for one file.
        format: of the files; by default their fields tell.
        compat: as for ``chosen_quirks``.

    Raises:
        InputError: an unknown data set, one that is given twice, or an answer without references.
    """
    if data_set is not None and len(paths) > 1:
        raise InputError(f"--data-set {data_set} names one file of answers, and there are {len(paths)}")
    names = [data_set or path.stem for path in paths]
    for name in names:
        _check(name, names)
    answers = [
        BenchmarkAnswer(one.id, name, DATA_SETS[name], one.answer, one.references, one.where)
        for path, name in zip(paths, names, strict=True)
        for one in read_answers(path, format=format)
    ]
    return score_answers(answers, compat)


def _check(name: str, names: Sequence[str]) -> None:
    if name not in DATA_SETS:
        raise InputError(
            f"{name!r} is no data set of MultimodalOCR{closest(name, DATA_SETS)}: name the file of answers after one "
            f"({', '.join(DATA_SETS)}), or say --data-set"
        )
    if names.count(name) > 1:
        raise InputError(f"answers to {name} are given twice")


def evaluate_textvqa(
    paths: Sequence[Path],
    annotations: Path | None = None,
    *,
    format: str | None = None,
    compat: Sequence[str] | None = None,
) -> BenchmarkScores:
    """Soft accuracy over ten answers to a question, as LLaVA and M4C measure TextVQA.

    Args:
        annotations: ``TextVQA_0.5.1_val.json``, for answers in LLaVA's format, which carry no references.
        format, compat: as for ``evaluate_mmocr``.

    Raises:
        InputError: an answer without its ten references.
    """
    if annotations is None:
        found = [one for path in paths for one in read_answers(path, format=format)]
        if not any(one.references for one in found):
            raise InputError(f"{paths[0]}: no answer has references: give --annotations TextVQA_0.5.1_val.json")
    else:
        found = annotated_answers(paths, annotations)
    answers = [
        BenchmarkAnswer(one.id, "TextVQA", "textvqa_accuracy", one.answer, one.references, one.where) for one in found
    ]
    return score_answers(answers, compat)
