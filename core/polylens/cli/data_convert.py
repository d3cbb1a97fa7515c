"""``polylens data convert``: files of other layouts into ours."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from polylens.data.convert_conversations import Conversion

_OF_PICTURES = ("image_root", "on_bad_record")
"""Options of conversations that lists of OCR lines have too."""

_OF_CONVERSATIONS = {
    "turns": None,
    "prompt": None,
    "column": [],
    "header": [],
    "delimiter": None,
    "split": [],
    "split_by": None,
    "seed": None,
    "image_root": None,
    "pictures": None,
    "on_bad_record": None,
}
"""Options that mean nothing for document stores, and what they are when they are not given."""


def add_convert(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Conversations files: write turns in MiniCPM-V's or LLaVA's form, and divide them. Lists of pictures with "
        "texts (--prompt): make conversations of them. Document stores of other layouts (HDF5 with base64, JSONL, "
        "BEIR): copy them into one of ours. Training files that hold their documents: split them into a store and "
        "pairs.jsonl. REMGCL's OCR lists: write ocr.jsonl."
    )
    parser.add_argument("inputs", nargs="+", type=Path, metavar="PATH", help="files of one kind, or document stores")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder for what is made")
    talk = parser.add_argument_group("conversations and lists")
    talk.add_argument("--turns", choices=("role", "from"), help="keys of MiniCPM-V (default) or of LLaVA")
    talk.add_argument("--split", nargs="+", default=[], metavar="NAME=PART", help="such as train=0.9 test=0.1")
    talk.add_argument(
        "--split-by", choices=("id", "image", "answer"), help="what stays in one split: a record (default), ..."
    )
    talk.add_argument("--seed", type=int, help="of the division (default: 42)")
    talk.add_argument("--image-root", type=Path, metavar="DIR", help="default: the folder of each file")
    talk.add_argument("--pictures", choices=("check", "trust"), help="look at the header of each (default), or not")
    talk.add_argument(
        "--on-bad-record", choices=("error", "quarantine"), help="stop (default), or set aside in quarantine.jsonl"
    )
    lists = parser.add_argument_group("lists of pictures with texts (.csv, .tsv, .txt, .jsonl)")
    lists.add_argument("--prompt", metavar="TEXT", help="what the user asks about every picture")
    lists.add_argument(
        "--column", nargs="+", default=[], metavar="NAME=COLUMN", help="such as image=file text=caption"
    )
    lists.add_argument("--header", nargs="+", default=[], metavar="NAME", help="columns of a table that names none")
    lists.add_argument("--delimiter", metavar="C", help="between columns (default: comma in .csv, otherwise a tab)")
    parser.set_defaults(action=_convert)


def _convert(args: argparse.Namespace) -> int:
    from polylens.data.captions import TABLES
    from polylens.data.validate import detect_kind

    if args.prompt is not None:
        return _convert_conversations(args)
    if any(path.suffix.lower() in TABLES for path in args.inputs):
        from polylens.errors import InputError

        raise InputError("a list of pictures with texts needs --prompt: what the user asks about every picture")
    kinds = {detect_kind(path) for path in args.inputs}
    if kinds == {"ocr"}:
        return _convert_ocr(args)
    return _convert_conversations(args) if kinds == {"conversations"} else _convert_documents(args)


def _refuse_options(args: argparse.Namespace, what: str, allowed: tuple[str, ...] = ()) -> None:
    from polylens.errors import InputError

    for name, default in _OF_CONVERSATIONS.items():
        if name not in allowed and getattr(args, name) != default:
            raise InputError(f"--{name.replace('_', '-')} is for conversations, and these are {what}")


def _convert_ocr(args: argparse.Namespace) -> int:
    from polylens.data.ocr.foreign import convert_ocr

    _refuse_options(args, "OCR lines", _OF_PICTURES)
    made = convert_ocr(
        args.inputs, args.output, image_root=args.image_root, on_bad_record=args.on_bad_record or "error"
    )
    if made.quarantined:
        print(f"{made.quarantined} bad records were set aside in {args.output / 'quarantine.jsonl'}")
    print(f"{made.lines} lines of {made.pictures} pictures in {args.output / 'ocr.jsonl'}")
    return 0


def _convert_documents(args: argparse.Namespace) -> int:
    from polylens.data.convert import convert

    _refuse_options(args, "documents")
    report = convert(args.inputs, args.output)
    pairs = f", and {report.pairs} pairs in {args.output / 'pairs.jsonl'}" if report.pairs else ""
    print(f"{report.new} new documents: {args.output} has {report.total}{pairs}")
    return 0


def _convert_conversations(args: argparse.Namespace) -> int:
    from polylens.data.convert_conversations import convert_conversations

    report = convert_conversations(
        args.inputs,
        args.output,
        _conversion(args),
        image_root=args.image_root,
        on_bad_record=args.on_bad_record or "error",
    )
    if report.quarantined:
        print(f"{report.quarantined} bad records were set aside in {args.output / 'quarantine.jsonl'}")
    written = ", ".join(f"{count} records in {path}" for path, count in report.files.items())
    print(written + (f"; use them with --image-root {report.image_root}" if report.image_root else ""))
    return 0


def _conversion(args: argparse.Namespace) -> Conversion:
    from polylens.data.captions import ListLayout
    from polylens.data.convert_conversations import Conversion
    from polylens.errors import InputError

    layout = ListLayout(_pairs(args.column), tuple(args.header), args.delimiter)
    if args.prompt is None and layout != ListLayout():
        raise InputError("--column, --header and --delimiter are for lists, which need --prompt")
    splits = {name: _part(name, value) for name, value in _pairs(args.split).items()}
    chosen = {name: getattr(args, name) for name in ("turns", "split_by", "seed", "pictures")}
    given = {name: value for name, value in chosen.items() if value is not None}
    return Conversion(prompt=args.prompt, layout=layout, splits=splits, **given)


def _pairs(given: list[str]) -> dict[str, str]:
    from polylens.errors import InputError

    found: dict[str, str] = {}
    for item in given:
        name, equals, value = item.partition("=")
        if not (name and equals and value) or name in found:
            raise InputError(f"{item!r} is not NAME=VALUE with a name of its own")
        found[name] = value
    return found


def _part(name: str, text: str) -> float:
    from polylens.errors import InputError

    try:
        return float(text)
    except ValueError:
        raise InputError(f"split {name}: its part is {text!r}; write a number such as 0.1") from None
