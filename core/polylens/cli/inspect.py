"""``polylens inspect``: a page that shows what a model is given of training records."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Write a page that shows conversations or pairs as training sees them: pictures and their slices, every token "
        "with its id, visual tokens, what is supervised. No weights are read."
    )
    parser.add_argument("records", type=Path, help="conversations or pairs file, or a folder of them")
    parser.add_argument("--model", required=True, help="model folder, adapter folder, hub id or preset")
    parser.add_argument("--model-plugin", help="plugin of the model; by default the one that polylens.json names")
    parser.add_argument("--base", help="base of the adapter that --model is, instead of the one that it names")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="the page, such as page.html")
    parser.add_argument("--id", help="of the only record to show")
    parser.add_argument("--limit", type=int, default=20, help="records to show, the first ones (default: 20)")
    parser.add_argument("--documents", nargs="+", type=Path, default=[], metavar="STORE", help="document stores")
    parser.add_argument("--image-root", type=Path, help="where relative paths start (default: folder of the records)")
    parser.add_argument("--max-length", type=int, default=2048, help="tokens of a conversation (default: 2048)")
    parser.add_argument("--query-max-length", type=int, default=512, help="default: 512")
    parser.add_argument("--document-max-length", type=int, default=2048, help="default: 2048")
    parser.add_argument("--query-instruction", default="", help="text before every query without one of its own")
    parser.add_argument("--hard-negatives", type=int, default=0, help="of each pair (default: 0)")
    parser.add_argument(
        "--option", action="append", default=[], metavar="NAME=VALUE", help="option of the model family"
    )


def run(args: argparse.Namespace) -> int:
    from polylens.config.options import assignments
    from polylens.inspection.page import Request, inspect_records

    request = Request(
        records=args.records,
        plugin=args.model_plugin,
        model=args.model,
        base=args.base,
        options=assignments(args.option),
        documents=tuple(args.documents),
        image_root=args.image_root,
        id=args.id,
        limit=args.limit,
        max_length=args.max_length,
        query_max_length=args.query_max_length,
        document_max_length=args.document_max_length,
        query_instruction=args.query_instruction,
        hard_negatives=args.hard_negatives,
    )
    done = inspect_records(request, args.output)
    bad = f", {done.bad} of them with errors" if done.bad else ""
    print(f"{done.records} records{bad}: {args.output}")
    return 0
