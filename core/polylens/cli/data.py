"""``polylens data``: render, pair, convert, check and show data."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polylens.cli.data_convert import add_convert
from polylens.cli.data_ocr import add_ocr
from polylens.cli.data_synth import add_synth

if TYPE_CHECKING:
    from polylens.data.render import RenderReport


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "Render PDF files, build training pairs, and look after data files."
    tasks = parser.add_subparsers(dest="task", metavar="TASK", required=True)
    _add_render(tasks.add_parser("render", help="PDF pages into a document store"))
    _add_pairs(tasks.add_parser("pairs", help="raw pairs into training, validation and test files"))
    add_synth(tasks.add_parser("synth", help="pictures that are made, with their labels"))
    add_ocr(tasks.add_parser("ocr", help="the text of pictures, line by line, with its places"))
    add_convert(tasks.add_parser("convert", help="conversations, lists and documents of other layouts into ours"))
    _add_validate(tasks.add_parser("validate", help="list everything that is wrong in a file"))
    _add_stats(tasks.add_parser("stats", help="counts, sizes and lengths"))
    _add_show(tasks.add_parser("show", help="single records and their pictures"))


def run(args: argparse.Namespace) -> int:
    return args.action(args)


def _add_render(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Render every page of PDF files into a document store. Stopped at any moment, it is simply started again."
    )
    parser.add_argument("inputs", nargs="+", type=Path, metavar="PDF_OR_FOLDER", help="folders are searched for *.pdf")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder of the document store")
    parser.add_argument("--renderer", choices=("pymupdf", "pdfium"), default="pymupdf", help="default: pymupdf (AGPL)")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--dpi", type=float, help="dots per inch (default: 144)")
    size.add_argument("--long-side", type=int, metavar="PX", help="pixels of the longer side, in place of --dpi")
    parser.add_argument("--format", choices=("jpeg", "png"), default="jpeg", help="default: jpeg")
    parser.add_argument("--quality", type=int, default=90, help="of JPEG, 1 to 95 (default: 90)")
    parser.add_argument("--workers", type=_positive, help="processes (default: one per core)")
    parser.set_defaults(action=_render)


def _render(args: argparse.Namespace) -> int:
    from polylens.data.render import RenderSettings, render_pdfs

    settings = RenderSettings(args.renderer, args.dpi, args.long_side, args.format, args.quality)
    report = render_pdfs(args.inputs, args.output, settings, workers=args.workers)
    for skipped in report.skipped:
        page = "" if skipped.page is None else f", page {skipped.page}"
        _say(f"skipped {skipped.file}{page}: {skipped.reason}")
    _say(_render_summary(report, args.output))
    return 130 if report.interrupted else 0


def _render_summary(report: RenderReport, output: Path) -> str:
    stopped = "stopped; run it again to go on: " if report.interrupted else ""
    skipped = f", {len(report.skipped)} skipped (see {output / 'skipped.jsonl'})" if report.skipped else ""
    return f"{stopped}{report.files} files, {report.new} new pages{skipped}: {output} has {report.total} pages"


def _add_pairs(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Divide pairs by whole documents, and put the training pairs into batches of one source in which no query "
        "and no document occurs twice."
    )
    parser.add_argument("--records", nargs="+", type=Path, required=True, metavar="JSONL", help="pairs files")
    _add_documents(parser, required=True)
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder for the files")
    parser.add_argument("--batch-size", type=_positive, default=128, help="of a step over all ranks (default: 128)")
    parser.add_argument("--validation", type=float, default=0.1, metavar="PART", help="of the pairs (default: 0.1)")
    parser.add_argument("--test", type=float, default=0.1, metavar="PART", help="of the pairs (default: 0.1)")
    parser.add_argument("--seed", type=int, default=42, help="default: 42")
    parser.add_argument(
        "--group-by",
        default="document",
        metavar="NAME",
        help="what stays in one split: document (all pages of a file, the default), source, or a key of metadata",
    )
    _add_on_bad_record(parser)
    parser.set_defaults(action=_pairs)


def _pairs(args: argparse.Namespace) -> int:
    from polylens.data.build_pairs import BuildSettings, build_pairs
    from polylens.data.store import open_documents

    settings = BuildSettings(args.batch_size, args.validation, args.test, args.seed, args.group_by)
    documents = open_documents(args.documents)
    report = build_pairs(args.records, documents, args.output, settings, on_bad_record=args.on_bad_record)
    if report.quarantined:
        _say(f"{report.quarantined} bad records were set aside in {args.output / 'quarantine.jsonl'}")
    if report.dropped_negatives:
        _say(f"{report.dropped_negatives} hard negatives were left out: they are documents of another split")
    counts = ", ".join(f"{split.pairs} {name}" for name, split in report.splits.items())
    batches = f"{report.full_batches} full and {report.short_batches} smaller batches"
    _say(f"{counts} pairs in {args.output}; training has {batches} of {args.batch_size}")
    return 0


def _add_validate(parser: argparse.ArgumentParser) -> None:
    parser.description = "List everything that is wrong in a file. Exit code 2 if anything is."
    _add_file(parser)
    _add_documents(parser, required=False)
    parser.add_argument("--image-root", type=Path, metavar="DIR", help="default: the folder of the file")
    parser.set_defaults(action=_validate)


def _validate(args: argparse.Namespace) -> int:
    from polylens.data.store import open_documents
    from polylens.data.validate import validate

    documents = open_documents(args.documents) if args.documents else None
    findings = validate(args.file, kind=args.kind, documents=documents, image_root=args.image_root)
    for problem in findings.problems:
        _say(problem)
    hint = ""
    if findings.kind == "pairs" and documents is None:
        hint = "; document ids were not checked, for want of --documents"
    if findings.kind == "ocr" and documents is None and args.image_root is None:
        hint = "; pictures were not looked at, for want of --documents or --image-root"
    records = "OCR records" if findings.kind == "ocr" else findings.kind
    _say(f"{args.file}: {findings.records} {records}, {len(findings.problems) or 'no'} errors{hint}")
    return 2 if findings.problems else 0


def _add_stats(parser: argparse.ArgumentParser) -> None:
    parser.description = "Figures about pairs, conversations, queries, documents or OCR lines."
    _add_file(parser)
    parser.add_argument("--json", action="store_true", help="as JSON, for programs")
    parser.set_defaults(action=_stats)


def _stats(args: argparse.Namespace) -> int:
    from polylens.data.statistics import statistics

    figures = statistics(args.file, args.kind)
    if args.json:
        _say(json.dumps(figures, ensure_ascii=False, indent=2))
    else:
        _print_figures(figures)
    return 0


def _print_figures(figures: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("figure", "value")
    for name, value in figures.items():
        if isinstance(value, dict) and any(isinstance(inner, dict) for inner in value.values()):
            for key, inner in value.items():
                table.add_row(f"{name}: {key}", _joined(inner))
        else:
            table.add_row(name, _joined(value) if isinstance(value, dict) else str(value))
    Console().print(table)


def _joined(figures: dict[str, Any]) -> str:
    return ", ".join(
        f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}" for key, value in figures.items()
    )


def _add_show(parser: argparse.ArgumentParser) -> None:
    parser.description = "Print records as JSON, or write the picture of a document to a file."
    _add_file(parser)
    parser.add_argument("--id", help="of the record to show")
    parser.add_argument("--limit", type=_positive, default=5, help="records to show without --id (default: 5)")
    parser.add_argument("--output", type=Path, metavar="PAGE.png", help="write the picture of document --id")
    parser.set_defaults(action=_show)


def _show(args: argparse.Namespace) -> int:
    from polylens.data.show import find_records, save_picture
    from polylens.data.store import open_documents
    from polylens.errors import InputError

    if args.output is None:
        for record in find_records(args.file, kind=args.kind, id=args.id, limit=args.limit):
            _say(json.dumps(record, ensure_ascii=False, indent=2))
        return 0
    if args.id is None:
        raise InputError("--output needs --id, the document whose picture is written")
    width, height = save_picture(open_documents([args.file]), args.id, args.output)
    _say(f"the picture of {args.id!r}, {width} x {height} pixels, is in {args.output}")
    return 0


def _add_file(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "file",
        type=Path,
        help="JSONL file of pairs, conversations, queries, documents or OCR lines, or a store",
    )
    parser.add_argument(
        "--kind",
        choices=("pairs", "conversations", "queries", "documents", "ocr"),
        help="what the file holds (default: found out)",
    )


def _add_documents(parser: argparse.ArgumentParser, *, required: bool) -> None:
    parser.add_argument(
        "--documents", nargs="+", type=Path, required=required, metavar="STORE", help="where the documents lie"
    )


def _add_on_bad_record(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--on-bad-record",
        choices=("error", "quarantine"),
        default="error",
        help="stop at the first bad record (default), or set it aside in quarantine.jsonl and go on",
    )


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return value


def _say(line: str) -> None:
    print(line)
