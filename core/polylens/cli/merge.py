"""``polylens merge``: one model folder out of an adapter and its base, of several models, or of a ZeRO checkpoint."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Make one complete model folder: of an adapter and its base, of several models (--average), or of a DeepSpeed "
        "checkpoint (--from-zero). Weights are read and written one by one. Stopped at any moment, it leaves no "
        "folder, and is simply started again."
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("adapter", nargs="?", help="adapter folder, in any layout")
    what.add_argument("--average", nargs="+", metavar="MODEL", help="model folders whose weights are averaged")
    what.add_argument("--from-zero", metavar="CHECKPOINT", help="folder of a DeepSpeed checkpoint, ZeRO 1, 2 or 3")
    parser.add_argument("--output-dir", type=Path, required=True, help="the new folder")
    parser.add_argument(
        "--dtype", default="auto", help="auto (as they are, the default), float32, bfloat16, float16 or float64"
    )
    parser.add_argument("--base", help="base of the adapter, instead of the one that it names")
    parser.add_argument("--model-plugin", help="plugin of the model; by default the one that polylens.json names")


def run(args: argparse.Namespace) -> int:
    from polylens.engine.merge import average_models, merge_adapter, merge_zero
    from polylens.errors import InputError

    if args.base is not None and not args.adapter:
        raise InputError("--base is for adapters alone")
    options = {"plugin": args.model_plugin, "dtype": args.dtype}
    if args.average:
        print(average_models(args.average, args.output_dir, **options))
    elif args.from_zero:
        print(merge_zero(args.from_zero, args.output_dir, **options))
    else:
        print(merge_adapter(args.adapter, args.output_dir, base=args.base, **options))
    return 0
