"""``polylens merge``: one model folder out of an adapter and its base, of several models, or of a ZeRO checkpoint."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Make one complete model folder: of an adapter and its base, of several models (--average), of a DeepSpeed "
        "checkpoint (--from-zero), of a difference and its base (--delta), or of a model in another layout "
        "(--convert). Weights are read and written one by one. Stopped at any moment, it leaves no folder, and is "
        "simply started again."
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("adapter", nargs="?", help="adapter folder, in any layout")
    what.add_argument("--average", nargs="+", metavar="MODEL", help="model folders whose weights are averaged")
    what.add_argument("--from-zero", metavar="CHECKPOINT", help="folder of a DeepSpeed checkpoint, ZeRO 1, 2 or 3")
    what.add_argument("--delta", metavar="FOLDER", help="folder of the difference of a model from --base")
    what.add_argument("--convert", metavar="MODEL", help="model folder that becomes one of the family --to")
    parser.add_argument(
        "--to", metavar="FAMILY", help="family of the same plugin that --convert makes, such as llava-hf"
    )
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="option of the model family, for an adapter or --convert, such as vision_tower=FOLDER",
    )
    parser.add_argument("--output-dir", type=Path, required=True, help="the new folder")
    parser.add_argument(
        "--dtype", default="auto", help="auto (as they are, the default), float32, bfloat16, float16 or float64"
    )
    parser.add_argument("--base", help="base of the adapter, instead of the one that it names; base of --delta")
    parser.add_argument("--model-plugin", help="plugin of the model; by default the one that polylens.json names")


def run(args: argparse.Namespace) -> int:
    from polylens.config.options import assignments
    from polylens.engine.merge import average_models, convert_model, merge_adapter, merge_delta, merge_zero

    _check(args)
    options = {"plugin": args.model_plugin, "dtype": args.dtype}
    if args.delta:
        print(merge_delta(args.delta, args.base, args.output_dir, **options))
    elif args.convert:
        print(convert_model(args.convert, args.to, args.output_dir, options=assignments(args.option), **options))
    elif args.average:
        print(average_models(args.average, args.output_dir, **options))
    elif args.from_zero:
        print(merge_zero(args.from_zero, args.output_dir, **options))
    else:
        own = assignments(args.option)
        print(merge_adapter(args.adapter, args.output_dir, base=args.base, options=own, **options))
    return 0


def _check(args: argparse.Namespace) -> None:
    from polylens.errors import InputError

    if args.base is not None and not (args.adapter or args.delta):
        raise InputError("--base is for adapters and --delta alone")
    if args.delta and args.base is None:
        raise InputError("--delta needs the folder that it is the difference from: --base")
    if bool(args.convert) != bool(args.to):
        raise InputError("--convert and --to go together: --convert MODEL --to FAMILY")
    if args.option and not (args.adapter or args.convert):
        raise InputError("--option is for adapters and --convert alone")
