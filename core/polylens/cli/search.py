"""``polylens search``: vectors in, a TREC run out."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from polylens.retrieval.search import SearchOptions

DESCRIPTION = (
    "Exact search: the documents of greatest inner product for every query, written as a TREC run. "
    "Under torchrun the queries are shared out over the ranks; the run is the same, byte for byte."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = DESCRIPTION
    parser.add_argument("--queries", type=Path, required=True, help="folder of query vectors (polylens encode)")
    parser.add_argument("--corpus", type=Path, required=True, help="folder of document vectors (polylens encode)")
    parser.add_argument("--output", type=Path, required=True, help="run file to write (TREC, tab-separated)")
    parser.add_argument("--k", type=int, default=100, help="documents per query (default: 100)")
    add_search_arguments(parser)


def add_search_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of search that ``evaluate`` has too."""
    parser.add_argument("--truncate-dim", type=int, metavar="D", help="use the first D dimensions (Matryoshka)")
    parser.add_argument(
        "--exclude-identical", action="store_true", help="leave out the document whose id is that of the query"
    )
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, or auto: a GPU if there is one (default)")
    parser.add_argument("--query-tile", type=int, metavar="N", help="queries of one multiplication (memory, speed)")
    parser.add_argument("--corpus-tile", type=int, metavar="N", help="documents of one multiplication (memory, speed)")


def run(args: argparse.Namespace) -> int:
    from polylens.retrieval.distributed import search_to_run
    from polylens.retrieval.vectors import VectorStore

    queries, corpus = VectorStore(args.queries), VectorStore(args.corpus)
    if search_to_run(queries, corpus, args.output, search_options(args, args.k)):
        k = min(args.k, len(corpus))
        print(f"{len(queries)} queries, {len(corpus)} documents: the best {k} of each are in {args.output}")
    return 0


def search_options(args: argparse.Namespace, k: int) -> SearchOptions:
    """The ``SearchOptions`` of parsed arguments."""
    from polylens.retrieval.search import SearchOptions

    return SearchOptions(
        k=k,
        truncate_dim=args.truncate_dim,
        exclude_identical=args.exclude_identical,
        device=args.device,
        query_tile=args.query_tile,
        corpus_tile=args.corpus_tile,
        progress=sys.stderr.isatty() and os.environ.get("RANK", "0") == "0",
    )
