"""Searches a corpus that lies on disk and is larger than the memory it may use.

    python benchmarks/search_streamed.py --folder /scratch [--documents 10000000] [--dimensions 1024] [--queries 200]

Writes float32 shards (41 GB by default) into a folder of its own inside ``--folder``, drops them from the page cache,
searches them in a new process, and deletes them. Documents are a block of random unit vectors whose columns are rolled
and whose signs are changed for every shard: cheap to make, and any shard can be made again. The results of some
queries are compared with a brute-force search of shards made again.

Reported are time by the clock and of the processor, documents and megabytes a second, and the greatest resident memory
of the searching process (``VmHWM``): its own memory, Python and torch included, and the pages of shards while they are
mapped. The program ends with an error if that is more than ``--limit`` or if results differ by more than rounding.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import overload

import numpy as np
import torch
from measure import machine, measure
from tqdm import tqdm

from polylens.config.card import ModelCard
from polylens.retrieval.search import SearchOptions, search
from polylens.retrieval.vectors import MemoryVectors, VectorStore, VectorWriter

ROWS = 8192
GIB = 2**30


class Numbers(Sequence[str]):
    """The ids ``0``, ``1``, ...: ten million strings at once would take a gigabyte."""

    def __init__(self, numbers: range) -> None:
        self.numbers = numbers

    def __len__(self) -> int:
        return len(self.numbers)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Numbers: ...
    def __getitem__(self, index: int | slice) -> str | Numbers:
        found = self.numbers[index]
        return Numbers(found) if isinstance(found, range) else str(found)


class Corpus:
    """Documents that are made shard by shard."""

    def __init__(self, documents: int, dimensions: int) -> None:
        self.documents = documents
        self.block = _unit(min(ROWS, documents), dimensions, seed=1)

    def shard(self, number: int) -> np.ndarray:
        return self._changed(self.block[: self.documents - number * ROWS], number)

    def row(self, position: int) -> np.ndarray:
        return self._changed(self.block[position % ROWS], position // ROWS)

    def _changed(self, values: np.ndarray, shard: int) -> np.ndarray:
        dimensions = values.shape[-1]
        signs = np.random.default_rng(shard).choice(np.array([-1, 1], np.float32), dimensions)
        return np.roll(values, shard % dimensions, axis=-1) * signs

    def write(self, folder: Path) -> None:
        writer = VectorWriter(
            folder,
            ids=Numbers(range(self.documents)),
            dimensions=self.block.shape[1],
            rows_per_shard=ROWS,
            kind="document",
            card=ModelCard("benchmark", "benchmark"),
        )
        for shard in tqdm(range(writer.shards), "write"):
            _drop_from_cache(writer.write(shard, self.shard(shard)))
        writer.finish()


def main() -> None:
    args = _arguments()
    if args.search:
        _search(args)
        return
    print(machine())
    corpus = Corpus(args.documents, args.dimensions)
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        args.search = Path(folder) / "vectors"
        corpus.write(args.search)
        hits = Path(folder) / "hits.json"
        subprocess.run([sys.executable, *sys.argv, "--search", str(args.search), "--hits", str(hits)], check=True)
        found = json.loads(hits.read_text(encoding="utf-8"))
    _check(args, corpus, found)


def _search(args: argparse.Namespace) -> None:
    """What the searching process does."""
    torch.set_num_threads(args.threads)
    queries = _queries(args)
    held, corpus = MemoryVectors(Numbers(range(len(queries))), torch.from_numpy(queries)), VectorStore(args.search)
    found = []
    cost = measure(lambda: found.extend(search(held, corpus, SearchOptions(k=args.k, progress=True))))
    peak = _peak()
    print(
        f"{args.queries} queries x {args.documents} documents x {args.dimensions}, k={args.k}, "
        f"{args.threads} thread(s), at most {peak / GIB:.2f} GiB resident"
    )
    for name, seconds in (("by the clock", cost.wall), ("of the processor", cost.seconds)):
        rate = args.documents / seconds
        print(
            f"{seconds:.1f} s {name}: {rate:,.0f} documents/s, {4e-6 * args.dimensions * rate:,.0f} MB/s", flush=True
        )
    args.hits.write_text(json.dumps([[list(map(int, one.document_ids)), one.scores] for one in found]))
    if peak > args.limit * GIB:
        raise SystemExit(f"more than {args.limit} GiB of memory")


def _check(args: argparse.Namespace, corpus: Corpus, found: list[tuple[list[int], list[float]]]) -> None:
    """Compare the first queries with a search that keeps the best of every shard."""
    queries = _queries(args)[: args.checked]
    best = np.zeros((len(queries), 0), np.float32)
    for shard in tqdm(range(-(-args.documents // ROWS)), "check"):
        scores = np.concatenate([best, queries @ corpus.shard(shard).T], axis=1)
        best = -np.sort(-scores, axis=1)[:, : args.k]
    for query, expected, (ids, scores) in zip(queries, best, found, strict=False):
        own = [corpus.row(id).astype(np.float64) @ query.astype(np.float64) for id in ids]
        assert len(set(ids)) == len(expected), "a document is missing or there twice"
        assert np.allclose(scores, expected, atol=1e-6, rtol=0), "other documents are better"
        assert np.allclose(own, scores, atol=1e-6, rtol=0), "a score is not that of its document"
    print(f"{len(queries)} queries agree with brute force")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where to put the vectors (default: where temporary files go)")
    parser.add_argument("--documents", type=int, default=10_000_000)
    parser.add_argument("--dimensions", type=int, default=1024)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--k", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--checked", type=int, default=4, help="queries that are compared with brute force")
    parser.add_argument("--limit", type=float, default=2.0, help="GiB of resident memory allowed")
    parser.add_argument("--search", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--hits", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def _queries(args: argparse.Namespace) -> np.ndarray:
    return _unit(args.queries, args.dimensions, seed=0)


def _unit(count: int, dimensions: int, seed: int) -> np.ndarray:
    values = np.random.default_rng(seed).standard_normal((count, dimensions), dtype=np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def _drop_from_cache(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(handle)


def _peak() -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


if __name__ == "__main__":
    main()
