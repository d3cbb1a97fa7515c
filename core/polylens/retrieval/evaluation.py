"""Measures what lies in files: a run, or folders of vectors."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from polylens.errors import InputError
from polylens.retrieval.beir import find_evaluation_set
from polylens.retrieval.metrics import MEASURES, Evaluation, as_run, depth, evaluate, parse_measure
from polylens.retrieval.search import SearchOptions, search
from polylens.retrieval.trec import Run, read_qrels, read_run
from polylens.retrieval.vectors import VectorStore


@dataclass(frozen=True, slots=True)
class Sources:
    """What to measure against what: ``qrels`` or ``beir``, and ``run`` or ``queries`` with ``corpus``.

    Attributes:
        qrels: file of judgements.
        beir: folder in which ``find_evaluation_set`` finds the judgements of ``split``.
        run: run file.
        queries, corpus: folders of vectors to search.

    Raises:
        InputError: another combination was given.
    """

    qrels: Path | None = None
    beir: Path | None = None
    split: str = "test"
    run: Path | None = None
    queries: Path | None = None
    corpus: Path | None = None

    def __post_init__(self) -> None:
        if (self.qrels is None) == (self.beir is None):
            raise InputError("give the judgements: either --qrels FILE or --beir DIR")
        vectors = [folder for folder in (self.queries, self.corpus) if folder is not None]
        if (self.run is None) == (not vectors) or len(vectors) == 1:
            raise InputError("give either --run FILE, or both --queries DIR and --corpus DIR")

    def judgements(self) -> Path:
        """The file of judgements."""
        return self.qrels or find_evaluation_set(self.beir or "", self.split).qrels

    def named(self) -> dict[str, str]:
        """The sources as the result file names them."""
        named = {"run": self.run, "queries_vectors": self.queries, "corpus_vectors": self.corpus}
        return {"qrels": str(self.judgements())} | {key: str(path) for key, path in named.items() if path}


def evaluate_files(
    sources: Sources, measures: Sequence[str] = MEASURES, options: SearchOptions | None = None
) -> Evaluation:
    """Measure a run, or search vectors and measure what was found.

    Args:
        options: of the search; ``k`` grows to the greatest cutoff of the measures.

    Raises:
        InputError: a file or folder cannot be used, a measure is unknown, or several ranks were started.
    """
    for name in measures:
        parse_measure(name)
    qrels = read_qrels(sources.judgements())
    return evaluate(qrels, read_run(sources.run) if sources.run else _search(sources, measures, options), measures)


def _search(sources: Sources, measures: Sequence[str], options: SearchOptions | None) -> Run:
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError("evaluate runs on one process: search on several with `polylens search`, then give its --run")
    options = options or SearchOptions()
    options = replace(options, k=depth(measures, options.k))
    return as_run(search(VectorStore(sources.queries or ""), VectorStore(sources.corpus or ""), options))
