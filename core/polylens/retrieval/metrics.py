"""Retrieval measures, computed by ir-measures (trec_eval) on a canonical order.

trec_eval orders equal scores by document id from Z to A, other implementations as they come, and ir-measures mixes
both (https://github.com/terrierteam/ir_measures/issues/18). Here equal scores are ordered by document id from A to Z,
and what ir-measures sees are strictly decreasing numbers, so that all measures are of one and the same ranking.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

from polylens.config import schemas
from polylens.errors import InputError, closest
from polylens.files import replacing
from polylens.retrieval.trec import Hits, Qrels, Run

MEASURES = ("nDCG@10", "RR@10", "R@10", "AP")

_NAMES = {
    "nDCG": "nDCG",
    "RR": "RR",
    "MRR": "RR",
    "R": "R",
    "Recall": "R",
    "AP": "AP",
    "MAP": "AP",
    "P": "P",
    "Precision": "P",
    "Success": "Success",
}
_NEED_CUTOFF = ("R", "P", "Success")


class Evaluation(TypedDict):
    """What ``evaluate`` returns.

    Attributes:
        mean: measure -> mean over all queries of the judgements.
        per_query: query id -> measure -> value.
        queries: of the judgements, all of which count.
        queries_without_results: of these, absent from the run; they count as 0.
        queries_without_relevant: of these, without any relevant document; they count as 0.
        ignored_queries: of the run, without judgements.
    """

    mean: dict[str, float]
    per_query: dict[str, dict[str, float]]
    queries: int
    queries_without_results: int
    queries_without_relevant: int
    ignored_queries: int


def evaluate(qrels: Qrels, run: Run, measures: Sequence[str] = MEASURES) -> Evaluation:
    """Measure a run.

    Args:
        measures: ``nDCG@k``, ``RR@k`` (or ``MRR@k``), ``R@k`` (or ``Recall@k``), ``AP`` (or ``MAP``), ``P@k``,
            ``Success@k``; the results carry the names given here. nDCG has linear gains and discount ``1 / log2(rank +
            1)``, as in trec_eval.

    Raises:
        InputError: an unknown measure, no judgement, or no query of the run is judged.
    """
    import ir_measures

    wanted = {name: parse_measure(name) for name in measures}
    _check_overlap(qrels, run)
    per_query: dict[str, dict[str, float]] = {query: {} for query in qrels}
    names: dict[Any, list[str]] = {}
    for name, measure in wanted.items():
        names.setdefault(measure, []).append(name)
    for metric in ir_measures.iter_calc(list(names), qrels, canonical(run)):
        per_query[metric.query_id].update(dict.fromkeys(names[metric.measure], float(metric.value)))
    return {
        "mean": {name: sum(values[name] for values in per_query.values()) / len(qrels) for name in wanted},
        "per_query": {query: {name: values[name] for name in wanted} for query, values in per_query.items()},
        "queries": len(qrels),
        "queries_without_results": sum(not run.get(query) for query in qrels),
        "queries_without_relevant": sum(max(grades.values(), default=0) < 1 for grades in qrels.values()),
        "ignored_queries": sum(query not in qrels for query in run),
    }


def canonical(run: Run) -> Run:
    """The same ranking, equal scores ordered by document id, with the scores n, n - 1, ..., 1."""
    ranked = {query: sorted(found, key=lambda id: (-found[id], id)) for query, found in run.items()}
    return {query: {id: float(len(ids) - rank) for rank, id in enumerate(ids)} for query, ids in ranked.items()}


def parse_measure(name: str) -> Any:
    """The ``ir_measures.Measure`` of a name.

    Raises:
        InputError: there is no such measure, or it needs a cutoff.
    """
    import ir_measures

    match = re.fullmatch(r"([A-Za-z]+)(?:@([1-9][0-9]*))?", name)
    folded = {alias.lower(): canonical for alias, canonical in _NAMES.items()}
    base = folded.get(match[1].lower()) if match else None
    if match is None or base is None:
        hint = closest(name.partition("@")[0], _NAMES)
        raise InputError(f"unknown measure {name!r}{hint}; known are {', '.join(_NAMES)}, with @k for a cutoff")
    if base in _NEED_CUTOFF and match[2] is None:
        raise InputError(f"measure {name!r} needs a cutoff, such as {name}@10")
    measure = getattr(ir_measures, base)
    return measure @ int(match[2]) if match[2] else measure


def depth(measures: Iterable[str], least: int = 100) -> int:
    """How many documents per query the measures need: the greatest cutoff, but not less than ``least``."""
    cutoffs = [int(cutoff) for name in measures for cutoff in re.findall(r"@(\d+)$", name)]
    return max([least, *cutoffs])


def in_memory(
    query_ids: Sequence[str],
    query_vectors: Any,
    document_ids: Sequence[str],
    document_vectors: Any,
    qrels: Qrels,
    measures: Sequence[str] = MEASURES,
    k: int | None = None,
    device: str = "cpu",
) -> dict[str, float]:
    """Mean measures of vectors that are in memory, through the same search and the same measures as the commands.

    Args:
        query_vectors, document_vectors: tensors or arrays [n, D] of any float type; scored in float32.
        k: documents per query; by default ``depth(measures)``.

    Raises:
        InputError: as ``search`` and ``evaluate``.
    """
    import torch

    from polylens.retrieval.search import SearchOptions, search
    from polylens.retrieval.vectors import MemoryVectors

    queries = MemoryVectors(query_ids, torch.as_tensor(query_vectors))
    documents = MemoryVectors(document_ids, torch.as_tensor(document_vectors))
    hits = search(queries, documents, SearchOptions(k=k or depth(measures), device=device))
    return evaluate(qrels, as_run(hits), measures)["mean"]


def as_run(hits: Iterable[Hits]) -> Run:
    """What a search found, as a run."""
    return {one.query_id: dict(zip(one.document_ids, one.scores, strict=True)) for one in hits}


def save_result(path: Path, result: Evaluation, **sources: str) -> None:
    """Write means and counts (``schemas/retrieval_result.schema.json``); the file appears whole or not at all.

    Args:
        sources: what was evaluated, such as ``qrels`` and ``run``.
    """
    value = {"version": 1, **sources, **{key: item for key, item in result.items() if key != "per_query"}}
    schemas.check("retrieval_result", value, str(path))
    with replacing(path) as partial:
        partial.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def save_per_query(path: Path, per_query: Mapping[str, Mapping[str, float]]) -> None:
    """Write one tab-separated line per query, after a header that names the measures."""
    names = list(next(iter(per_query.values())))
    rows = [["query-id", *names], *([query, *(repr(v[n]) for n in names)] for query, v in per_query.items())]
    with replacing(path) as partial:
        partial.write_text("".join("\t".join(row) + "\n" for row in rows), encoding="utf-8")


def _check_overlap(qrels: Qrels, run: Run) -> None:
    if not qrels:
        raise InputError("there is no judgement to measure against")
    if run and not any(query in qrels for query in run):
        example, judged = next(iter(run)), next(iter(qrels))
        raise InputError(f"no query of the run is judged: the run has {example!r}, the judgements have {judged!r}")
