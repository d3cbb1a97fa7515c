"""Times exact search beside ``faiss.IndexFlatIP`` and prints the ratio.

    python benchmarks/search.py [--documents 100000] [--dimensions 1024] [--queries 200] [--k 100]

Both search the same float32 unit vectors in the same process, turn by turn; the best round of each counts, because
other programs on the machine can only slow a round down. faiss holds its vectors in memory; polylens is timed with
vectors in memory and with a folder of mapped shards. Shown are processor time (of all threads together) and time by
the clock, each with its ratio to faiss, and what the call adds to resident memory at its highest. The program ends
with an error if the results differ by more than rounding.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
import torch
from measure import Cost, best, machine

from polylens.config.card import ModelCard
from polylens.retrieval.search import SearchOptions, search
from polylens.retrieval.vectors import MemoryVectors, VectorStore, VectorWriter


def main() -> None:
    args = _arguments()
    queries, documents = (
        _unit(count, args.dimensions, seed) for seed, count in enumerate((args.queries, args.documents))
    )
    index = faiss.IndexFlatIP(args.dimensions)
    index.add(documents)  # pyright: ignore[reportCallIssue]
    options = SearchOptions(k=args.k, query_tile=args.query_tile, corpus_tile=args.corpus_tile)
    held = [MemoryVectors([str(i) for i in range(len(v))], torch.from_numpy(v)) for v in (queries, documents)]
    with tempfile.TemporaryDirectory() as folder:
        stored = _store(Path(folder), documents)
        programs: dict[str, Callable[[], object]] = {
            "faiss": lambda: index.search(queries, args.k),  # pyright: ignore[reportCallIssue]
            "memory": lambda: search(held[0], held[1], options),
            "folder": lambda: search(held[0], stored, options),
        }
        _check_same(queries, documents, index, options, held)
        print(machine())
        print(f"{args.queries} queries x {args.documents} documents x {args.dimensions}, k={args.k}")
        for threads in args.threads:
            torch.set_num_threads(threads)
            faiss.omp_set_num_threads(threads)
            _report(threads, best(programs, args.rounds))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--dimensions", type=int, default=1024)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--k", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--query-tile", type=int)
    parser.add_argument("--corpus-tile", type=int)
    return parser.parse_args()


def _unit(count: int, dimensions: int, seed: int) -> np.ndarray:
    values = np.random.default_rng(seed).standard_normal((count, dimensions), dtype=np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def _store(folder: Path, documents: np.ndarray) -> VectorStore:
    writer = VectorWriter(
        folder,
        ids=[str(i) for i in range(len(documents))],
        dimensions=documents.shape[1],
        rows_per_shard=8192,
        kind="document",
        card=ModelCard("benchmark", "benchmark"),
    )
    for shard in writer.missing():
        rows = writer.rows(shard)
        writer.write(shard, documents[rows.start : rows.stop])
    writer.finish()
    return VectorStore(folder)


def _check_same(
    queries: np.ndarray,
    documents: np.ndarray,
    index: faiss.IndexFlatIP,
    options: SearchOptions,
    held: list[MemoryVectors],
) -> None:
    scores, found = index.search(queries, options.k)  # pyright: ignore[reportCallIssue]
    for row, hits in enumerate(search(held[0], held[1], options)):
        assert np.allclose(hits.scores, scores[row], atol=1e-5)
        exact = documents[found[row]].astype(np.float64) @ queries[row].astype(np.float64)
        own = documents[[int(id) for id in hits.document_ids]].astype(np.float64) @ queries[row].astype(np.float64)
        assert np.allclose(own, exact, atol=1e-6)


def _report(threads: int, costs: dict[str, Cost]) -> None:
    print(f"{threads} thread(s)    processor           clock    memory")
    faiss_cost = costs["faiss"]
    for name, cost in costs.items():
        print(
            f"  {name:9} {cost.seconds:7.3f} s {cost.seconds / faiss_cost.seconds:4.2f}x "
            f"{cost.wall:7.3f} s {cost.wall / faiss_cost.wall:4.2f}x {cost.peak / 1e6:5.0f} MB",
            flush=True,
        )


if __name__ == "__main__":
    main()
