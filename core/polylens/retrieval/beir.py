"""Finds the files of an evaluation set in a folder: the layout of BEIR, and that of the original retriever."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from polylens.errors import InputError, closest


@dataclass(frozen=True, slots=True)
class EvaluationSet:
    """The three files of an evaluation set."""

    corpus: Path
    queries: Path
    qrels: Path


def find_evaluation_set(folder: Path | str, split: str = "test") -> EvaluationSet:
    """The files of ``folder``.

    BEIR: ``corpus.jsonl``, ``queries.jsonl``, ``qrels/<split>.tsv``. The original: ``<name>-eval-docs.jsonl``,
    ``<name>-eval-queries.jsonl`` and ``<name>-eval-qrels.tsv`` or ``qrels.tsv``; it has no splits.

    Raises:
        InputError: the folder holds neither, or several sets of the original, or lacks the split.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder")
    if (folder / "corpus.jsonl").is_file():
        return _complete(folder / "corpus.jsonl", folder / "queries.jsonl", _split(folder, split))
    docs = sorted(folder.glob("*-eval-docs.jsonl"))
    if len(docs) > 1:
        raise InputError(
            f"{folder} holds several evaluation sets, which one? ({', '.join(path.name for path in docs)})"
        )
    if not docs:
        raise InputError(f"{folder} has neither corpus.jsonl (BEIR) nor <name>-eval-docs.jsonl")
    name = docs[0].name.removesuffix("docs.jsonl")
    named = folder / f"{name}qrels.tsv"
    return _complete(docs[0], folder / f"{name}queries.jsonl", named if named.is_file() else folder / "qrels.tsv")


def _split(folder: Path, split: str) -> Path:
    path = folder / "qrels" / f"{split}.tsv"
    splits = sorted(path.stem for path in folder.glob("qrels/*.tsv"))
    if splits and not path.is_file():
        raise InputError(f"{folder} has no split {split!r}{closest(split, splits)}; it has {', '.join(splits)}")
    return path


def _complete(corpus: Path, queries: Path, qrels: Path) -> EvaluationSet:
    for path in (queries, qrels):
        if not path.is_file():
            raise InputError(f"{path} is missing beside {corpus.name}")
    return EvaluationSet(corpus, queries, qrels)
