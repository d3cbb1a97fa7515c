"""What a ranking drawn at random scores on average: the level that any retriever must beat."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from polylens.errors import InputError, closest

__all__ = ["chance_level"]


def chance_level(qrels: Mapping[str, Mapping[str, int]], documents: int, measure: str) -> float:
    """The expected value of a measure when every order of the documents is equally likely, averaged over queries.

    Args:
        qrels: query id -> document id -> relevance (0 is not relevant).
        documents: size of the corpus that is ranked.
        measure: ``nDCG@k``, ``R@k`` (recall) or ``RR@k``.

    Raises:
        InputError: no queries, a query with more relevant documents than the corpus has, or another measure.

    >>> chance_level({"q": {"page": 1}}, 4, "R@1")
    0.25
    """
    name, _, depth = measure.partition("@")
    if name not in _EXPECTED or not depth.isdecimal() or int(depth) < 1:
        allowed = ", ".join(f"{name}@k" for name in _EXPECTED)
        raise InputError(f"no chance level is known for {measure!r}{closest(name, _EXPECTED)}; known: {allowed}")
    if not qrels:
        raise InputError(f"the chance level of {measure} needs at least one query")
    values = [_EXPECTED[name](_gains(query, rows, documents), documents, int(depth)) for query, rows in qrels.items()]
    return math.fsum(values) / len(values)


def _gains(query: str, relevance: Mapping[str, int], documents: int) -> list[int]:
    gains = sorted((value for value in relevance.values() if value > 0), reverse=True)
    if len(gains) > documents:
        raise InputError(f"query {query!r} has {len(gains)} relevant documents, the corpus has {documents}")
    return gains


def _discounts(depth: int) -> list[float]:
    return [1 / math.log2(rank + 1) for rank in range(1, depth + 1)]


def _ndcg(gains: Sequence[int], documents: int, depth: int) -> float:
    """Every rank holds the mean gain, and the ideal DCG is a constant, so the expectation is their ratio."""
    if not gains:
        return 0.0
    ideal = sum(gain * discount for gain, discount in zip(gains, _discounts(depth), strict=False))
    return sum(gains) / documents * sum(_discounts(min(depth, documents))) / ideal


def _recall(gains: Sequence[int], documents: int, depth: int) -> float:
    """Each relevant document is among the first k with probability k / N."""
    return min(depth, documents) / documents if gains else 0.0


def _reciprocal_rank(gains: Sequence[int], documents: int, depth: int) -> float:
    """Of N documents, n relevant: the first relevant one is at rank r in C(N - r, n - 1) of C(N, n) draws."""
    if not gains:
        return 0.0
    draws = math.comb(documents, len(gains))
    ranks = range(1, min(depth, documents - len(gains) + 1) + 1)
    return sum(math.comb(documents - rank, len(gains) - 1) / draws / rank for rank in ranks)


_EXPECTED: dict[str, Callable[[Sequence[int], int, int], float]] = {
    "nDCG": _ndcg,
    "R": _recall,
    "RR": _reciprocal_rank,
}
