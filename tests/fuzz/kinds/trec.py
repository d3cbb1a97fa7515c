"""Judgements and runs: TREC's columns, BEIR's, and our own."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

from fuzz.mutators import mutate_lines, mutate_text, several
from fuzz.outcome import require

from polylens.errors import InputError
from polylens.retrieval.evaluation import Sources, evaluate_files
from polylens.retrieval.trec import read_qrels, read_run

CELLS = (
    "",
    " ",
    "nan",
    "inf",
    "1e308",
    "1e999",
    "-1",
    "1_0",
    "٣",
    "0x1",
    "1.5",
    "2.0",
    "+1",
    "1e3",
    "9007199254740993",
)
IDS = ("a b", "a\u00a0b", "a\0b", "\ufeff", "é", "a" * 5000, "query-id", "Q0", "-", "#")

RUN = (
    ("q1", "Q0", "a.pdf#1", "1", "2.5", "tag"),
    ("q1", "Q0", "b.pdf#1", "2", "-1e-3", "tag"),
    ("q2", "Q0", "a.pdf#1", "1", "0.100000001", "tag"),
    ("q2", "Q0", "c.pdf#1", "2", "0", "tag"),
)
QRELS = (("q1", "0", "a.pdf#1", "1"), ("q1", "0", "c.pdf#1", "0"), ("q2", "0", "c.pdf#1", "2"), ("q3", "0", "x", "-1"))
BEIR = (("query-id", "corpus-id", "score"), *((query, document, grade) for query, _, document, grade in QRELS))


def mutated(rng: random.Random, rows: Sequence[Sequence[str]]) -> bytes:
    """Lines of columns, with cells, columns, separators or bytes changed."""
    table = [list(row) for row in rows]
    for _ in range(rng.choice([0, 1, 1, 2, 3])):
        row = table[rng.randrange(len(table))]
        place = rng.randrange(len(row) + 1)
        if place == len(row):
            rng.choice([lambda row=row: row.append("more"), lambda row=row: row.pop()])()
        else:
            row[place] = rng.choice([*CELLS, *IDS, mutate_text(rng, row[place]), row[rng.randrange(len(row))]])
    separator = rng.choice(["\t", "\t", "\t", " ", "  ", " \t"])
    data = "".join(separator.join(row) + "\n" for row in table if row).encode("utf-8", errors="surrogatepass")
    return several(rng, mutate_lines, data, 2) if rng.random() < 0.5 else data


def rows_of(path: Path) -> Iterator[list[str]]:
    """The columns of every line that is not blank: at tabs if there are any inside, else at white space."""
    text = path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    for line in text.split("\n"):
        if line.strip(" \t"):
            inside = line.strip(" \t")
            yield line.split("\t") if "\t" in inside else [column for column in inside.split(" ") if column]


def _evaluate(qrels: Path, run: Path) -> None:
    try:
        result = evaluate_files(Sources(qrels=qrels, run=run))
    except InputError:
        return
    for value in (*result["mean"].values(), *(v for query in result["per_query"].values() for v in query.values())):
        require(0 <= value <= 1, f"a measure is {value}")
    json.dumps(result, allow_nan=False)


class Runs:
    """Run files."""

    def __init__(self, base: Path) -> None:
        self.qrels = base / "qrels.tsv"
        self.qrels.write_text("".join("\t".join(row) + "\n" for row in QRELS))

    def write(self, rng: random.Random, folder: Path) -> None:
        (folder / "run.tsv").write_bytes(mutated(rng, RUN))

    def read(self, folder: Path) -> int:
        run = read_run(folder / "run.tsv")
        rows = list(rows_of(folder / "run.tsv"))
        require(sum(map(len, run.values())) == len(rows), "lines were lost")
        for query, _, document, _, score, _ in rows:
            require(query in run and document in run[query], f"{query!r}, {document!r} was lost")
            require(run[query][document] == float(Fraction(score)), f"the score of {document!r} was altered")
        _evaluate(self.qrels, folder / "run.tsv")
        return 0

    def commands(self, folder: Path) -> Sequence[Sequence[str]]:
        files = ["--qrels", str(self.qrels), "--run", str(folder / "run.tsv")]
        return [["evaluate", "retrieval", *files, "--output", str(folder / "result.json")]]


class Judgements:
    """Files of judgements, of three columns and of four."""

    def __init__(self, base: Path) -> None:
        self.run = base / "run.tsv"
        self.run.write_text("".join("\t".join(row) + "\n" for row in RUN))

    def write(self, rng: random.Random, folder: Path) -> None:
        (folder / "qrels.tsv").write_bytes(mutated(rng, rng.choice([QRELS, BEIR, BEIR[1:]])))

    def read(self, folder: Path) -> int:
        qrels = read_qrels(folder / "qrels.tsv")
        rows = list(rows_of(folder / "qrels.tsv"))
        names = ["query-id", "corpus-id", "score"]
        if sorted(rows[0]) == sorted(names):
            order = [rows[0].index(name) for name in names]
            rows = [[row[place] for place in order] for row in rows[1:]]
        found = {(query, document): grade for query, grades in qrels.items() for document, grade in grades.items()}
        expected = {(row[0], row[-2]): row[-1] for row in rows}
        require(found.keys() == expected.keys(), "other judgements were delivered than stand in the file")
        for place, grade in expected.items():
            require(found[place] == Fraction(grade), f"the grade of {place} was altered")
        _evaluate(folder / "qrels.tsv", self.run)
        return 0

    def commands(self, folder: Path) -> Sequence[Sequence[str]]:
        files = ["--qrels", str(folder / "qrels.tsv"), "--run", str(self.run)]
        return [["evaluate", "retrieval", *files, "--per-query", str(folder / "per_query.tsv")]]
