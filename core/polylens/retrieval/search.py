"""Exact search by inner product: every query against every document, in tiles.

Scores are float32 whatever the vectors were made in: ranking in bfloat16 loses 2 % of the first hundred.

A tile is a function of global position: tile i of the queries holds the rows from ``i * query_tile`` on, and so for
the corpus; the last tile is padded with zeros to a multiple of 16 rows. Ranks share the query tiles out, so every
product has the same shapes on any number of ranks, and the result is the same bit for bit.
"""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize
from tqdm import tqdm

from polylens.engine.devices import resolve_device
from polylens.errors import InputError
from polylens.retrieval.topk import RunningTopK
from polylens.retrieval.trec import Hits
from polylens.retrieval.vectors import Vectors, VectorStore, differences

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """How to search; only the first three change what is found.

    Attributes:
        k: documents per query; a smaller corpus is returned whole.
        truncate_dim: use the first dimensions only (Matryoshka, Kusupati et al. 2022, arXiv 2205.13147). Vectors that
            had length 1 are brought back to length 1.
        exclude_identical: leave out the document whose id is the query's.
        device: ``cpu``, ``cuda``, ``cuda:1``, or ``auto``: the GPU of this rank if there is one.
        query_tile, corpus_tile: rows of one multiplication; by default 256 x 4096 on a CPU and 1024 x 32768 on a GPU.
        progress: show a bar.
    """

    k: int = 100
    truncate_dim: int | None = None
    exclude_identical: bool = False
    device: str = "cpu"
    query_tile: int | None = None
    corpus_tile: int | None = None
    progress: bool = False

    def __post_init__(self) -> None:
        for name in ("k", "truncate_dim", "query_tile", "corpus_tile"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} is {value}, it must be at least 1")


def search(queries: Vectors, corpus: Vectors, options: SearchOptions | None = None) -> list[Hits]:
    """The ``k`` documents of greatest inner product for every query, in the order of the queries.

    Equal scores are ordered by position in the corpus, the smaller first.

    Memory, whatever the size of the corpus: ``4 D + 8 k + 24 max(k, 64)`` bytes a query; ``4 D * corpus_tile`` bytes
    of the corpus; 4 bytes for each score of a tile (``query_tile * corpus_tile`` scores), up to 130 if nearly all are
    equal and better than those before; and the hits that are returned. Shards are memory-mapped, one at a time.

    Raises:
        InputError: queries and corpus differ in dimensions or encoder, or a vector is not finite.
    """
    return [hits for tile in search_tiles(queries, corpus, options or SearchOptions()) for hits in tile]


def search_tiles(
    queries: Vectors, corpus: Vectors, options: SearchOptions, rank: int = 0, world_size: int = 1
) -> Iterator[list[Hits]]:
    """The hits of the query tiles ``rank``, ``rank + world_size``, ...; see ``search``."""
    check_match(queries, corpus)
    device = resolve_device(options.device)
    size, corpus_tile = _tile_sizes(options, device)
    cut = _Cut(options, queries, corpus)
    with _full_precision(device):
        spans = _spans(len(queries), size)[rank::world_size]
        tiles = [_QueryTile(queries, span, size, min(options.k, len(corpus)), cut, device) for span in spans]
        if options.exclude_identical:
            _find_own(tiles, corpus)
        spans = _spans(len(corpus), corpus_tile) if tiles else []
        height = _height(len(corpus), corpus_tile)
        scores = torch.empty(height * max((len(tile.vectors) for tile in tiles), default=0), device=device)
        for start, stop in tqdm(spans, "search", disable=not options.progress):
            documents = _load(corpus, start, stop, _height(stop - start, corpus_tile), cut).to(device)
            for tile in tiles:
                tile.update(documents, scores, corpus, start, stop)
    yield from _hits(tiles, corpus)


class _QueryTile:
    """The queries of a span, on the device, and what was found for them so far."""

    def __init__(
        self, queries: Vectors, span: tuple[int, int], size: int, k: int, cut: _Cut, device: torch.device
    ) -> None:
        start, stop = span
        self.rows = stop - start
        names = queries.ids_at(range(start, stop))
        self.ids = [names[position] for position in range(start, stop)]
        self.vectors = _load(queries, start, stop, _height(self.rows, size), cut).to(device)
        _check_finite(self.vectors[: self.rows], queries, start)
        self.best = RunningTopK(self.rows, k, device)
        self.own: list[tuple[int, int]] = []  # (position, row) of documents that are left out, in order

    def update(self, documents: Tensor, memory: Tensor, corpus: Vectors, start: int, stop: int) -> None:
        """Score a padded tile of the corpus, of which the positions ``start`` to ``stop`` are real.

        ``memory`` holds the scores: a new tensor for every tile would cost as many page faults.
        """
        shape = len(documents), len(self.vectors)
        scores = torch.mm(documents, self.vectors.T, out=memory[: shape[0] * shape[1]].view(shape))[:, : self.rows]
        if not torch.isfinite(scores.sum()):
            _refuse_not_finite(documents[: stop - start], scores, corpus, start)
        scores[stop - start :] = -torch.inf
        first, last = (bisect_left(self.own, (edge, 0)) for edge in (start, stop))
        for position, row in self.own[first:last]:
            scores[position - start, row] = -torch.inf
        self.best.update(scores, start)


def check_match(queries: Vectors, corpus: Vectors) -> None:
    """Raise ``InputError`` unless scores between queries and corpus have a meaning."""
    if queries.dimensions != corpus.dimensions:
        raise InputError(f"queries have {queries.dimensions} dimensions, the corpus has {corpus.dimensions}")
    if not (isinstance(queries, VectorStore) and isinstance(corpus, VectorStore)):
        return
    if (queries.kind, corpus.kind) == ("document", "query"):
        raise InputError(f"{queries.folder} holds documents and {corpus.folder} queries: exchange them")
    keys = ("card", "fingerprint", "normalized")
    found = differences(*({key: store.manifest[key] for key in keys} for store in (queries, corpus)))
    if found:
        raise InputError(
            f"{queries.folder} and {corpus.folder} come from different encoders "
            f"('there' is the first): {'; '.join(found.values())}. Encode both with the same model."
        )


class _Cut:
    """Which dimensions are used, and whether vectors are brought back to length 1 afterwards."""

    def __init__(self, options: SearchOptions, *stores: Vectors) -> None:
        self.dimensions = options.truncate_dim or stores[0].dimensions
        full = stores[0].dimensions
        if self.dimensions > full:
            raise InputError(f"truncate_dim is {self.dimensions}, the vectors have {full} dimensions")
        self.renormalize = self.dimensions < full and all(getattr(store, "normalized", True) for store in stores)
        trained = stores[0].card.get("dimensions", []) if isinstance(stores[0], VectorStore) else []
        if self.dimensions < full and self.dimensions not in trained:
            log.warning("the model was not trained for %d dimensions (its card says %s)", self.dimensions, trained)


def _tile_sizes(options: SearchOptions, device: torch.device) -> tuple[int, int]:
    query_tile, corpus_tile = (256, 4096) if device.type == "cpu" else (1024, 32768)
    return options.query_tile or query_tile, options.corpus_tile or corpus_tile


def _spans(count: int, size: int) -> list[tuple[int, int]]:
    return [(start, min(start + size, count)) for start in range(0, count, size)]


def _height(rows: int, tile: int) -> int:
    """Rows of a padded tile: it is full, or, if it is the last, a multiple of 16."""
    return min(tile, -(-rows // 16) * 16)


def _load(vectors: Vectors, start: int, stop: int, height: int, cut: _Cut) -> Tensor:
    """float32 [height, d]: the rows, cut and padded with zeros; a view of the store where that is the same."""
    rows = vectors.rows(start, stop)
    if rows.shape == (height, cut.dimensions):
        return rows
    padded = torch.zeros(height, cut.dimensions)
    padded[: stop - start] = rows[:, : cut.dimensions]
    return normalize(padded, dim=1) if cut.renormalize else padded


@contextmanager
def _full_precision(device: torch.device) -> Iterator[None]:
    """float32 products: neither TF32 nor autocast, whatever the caller has set."""
    backends: Any = torch.backends
    backend = backends.cuda.matmul if device.type == "cuda" else backends.mkldnn.matmul
    before = backend.fp32_precision
    backend.fp32_precision = "ieee"
    try:
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            yield
    finally:
        backend.fp32_precision = before


def _check_finite(tile: Tensor, vectors: Vectors, start: int) -> None:
    bad = (~tile.isfinite().all(dim=1)).nonzero().flatten().tolist()
    if bad:
        raise InputError(f"{vectors.where(start + bad[0])} is not finite: encode again, or look at its input")


def _refuse_not_finite(documents: Tensor, scores: Tensor, corpus: Vectors, start: int) -> None:
    """A vector that is not finite makes its score with every query so; a sum of great scores may do it alone."""
    _check_finite(documents, corpus, start)
    if not scores.isfinite().all():
        raise InputError("scores do not fit into float32: are the vectors meant to be that long?")


def _find_own(tiles: list[_QueryTile], corpus: Vectors) -> None:
    """Tell each tile where the documents are whose ids are those of its queries."""
    places = {id: (tile, row) for tile in tiles for row, id in enumerate(tile.ids)}
    for position, id in enumerate(corpus.ids()):
        if id in places:
            tile, row = places[id]
            tile.own.append((position, row))


def _hits(tiles: list[_QueryTile], corpus: Vectors) -> Iterator[list[Hits]]:
    """Positions become ids; every shard is read once for all tiles."""
    results = [tile.best.result() for tile in tiles]
    names = corpus.ids_at(p for _, positions, found in results for p in positions[found].unique().tolist())
    for tile, (scores, positions, found) in zip(tiles, results, strict=True):
        rows = zip(tile.ids, scores.tolist(), positions.tolist(), found.sum(dim=1).tolist(), strict=True)
        yield [Hits(id, [names[p] for p in places[:n]], values[:n]) for id, values, places, n in rows]
