"""``polylens encode``: documents or queries into a folder of vectors."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Turn documents or queries into a folder of vectors. Stopped at any moment, it is simply started again. Under "
        "torchrun the work is shared out over the ranks; the vectors are the same, byte for byte."
    )
    parser.add_argument("--model", required=True, help="model folder, adapter folder, hub id or preset")
    parser.add_argument("--model-plugin", help="plugin of the model; by default the one that polylens.json names")
    parser.add_argument("--base", help="base of the adapter that --model is, instead of the one that it names")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--documents", nargs="+", type=Path, help="document stores, or BEIR folders")
    what.add_argument("--queries", type=Path, help="queries.jsonl (BEIR, or pairs)")
    parser.add_argument("--ids", type=Path, help="file with the ids of the documents to encode, one a line")
    parser.add_argument("--output", type=Path, required=True, help="folder of vectors; a part of it is completed")
    parser.add_argument("--batch-size", type=int, default=16, help="records of a forward pass (default: 16)")
    parser.add_argument(
        "--vision-chunk-size", type=int, help="crops of one call of the vision tower (default: all of a forward pass)"
    )
    parser.add_argument("--rows-per-shard", type=int, default=256, help="vectors of a file (default: 256)")
    parser.add_argument(
        "--dtype", default="auto", help="auto (what config.json says, the default), float32, bfloat16 or float16"
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1; by default the accelerator if there is one")
    parser.add_argument("--num-workers", type=int, default=2, help="processes that prepare pictures (default: 2)")
    parser.add_argument("--seed", type=int, default=0, help="of the random weights of a preset (default: 0)")
    parser.add_argument(
        "--option", action="append", default=[], metavar="NAME=VALUE", help="option of the model family"
    )


def run(args: argparse.Namespace) -> int:
    from polylens.config.options import assignments
    from polylens.retrieval.encoding import EncodeOptions, encode_documents, encode_queries

    options = EncodeOptions(
        batch_size=args.batch_size,
        rows_per_shard=args.rows_per_shard,
        dtype=args.dtype,
        device=args.device,
        num_workers=args.num_workers,
        seed=args.seed,
        options=assignments(args.option),
        vision_chunk_size=args.vision_chunk_size,
        base=args.base,
    )
    if args.queries:
        line = encode_queries(args.model, args.model_plugin, args.queries, args.output, options)
    else:
        line = encode_documents(args.model, args.model_plugin, args.documents, args.output, options, args.ids)
    if line:
        print(line)
    return 0
