"""Divides the queries of the sample manuals into those to train on and those to keep for the examination."""

from __future__ import annotations

import json
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

Pair = dict[str, Any]
VALIDATION, TEST = 1, 2  # queries of each page


@dataclass(frozen=True)
class Queries:
    """Pairs by their use, from the written queries of every page.

    Attributes:
        training: to train on, unless their page is in a held-out document.
        validation: unseen queries that choose the best checkpoint.
        test: unseen queries that are measured at the end.
    """

    training: list[Pair]
    validation: list[Pair]
    test: list[Pair]


def divide(pairs: list[Pair]) -> Queries:
    """Of each page, one query for validation and two for the test; a hash of the id decides, the same every time."""
    pages: dict[str, list[Pair]] = {}
    for pair in sorted(pairs, key=lambda pair: sha256(pair["id"].encode()).digest()):
        pages.setdefault(pair["positives"][0], []).append(pair)
    parts = pages.values()
    return Queries(
        training=[pair for part in parts for pair in part[VALIDATION + TEST :]],
        validation=[pair for part in parts for pair in part[:VALIDATION]],
        test=[pair for part in parts for pair in part[VALIDATION : VALIDATION + TEST]],
    )


def pages_of(pairs: list[Pair]) -> set[str]:
    return {page for pair in pairs for page in pair["positives"]}


def read_pairs(path: Path) -> list[Pair]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write_pairs(path: Path, pairs: list[Pair]) -> Path:
    path.write_text("".join(json.dumps(pair, ensure_ascii=False) + "\n" for pair in pairs), encoding="utf-8")
    return path


def write_qrels(path: Path, pairs: list[Pair]) -> Path:
    """Relevance in the form of BEIR."""
    lines = [f"{pair['id']}\t{page}\t1\n" for pair in pairs for page in pair["positives"]]
    path.write_text("query-id\tcorpus-id\tscore\n" + "".join(lines), encoding="utf-8")
    return path
