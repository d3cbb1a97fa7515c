"""``polylens data ocr``: the text of pictures, line by line, with its places."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from polylens.data.ocr.pictures import Pictures
    from polylens.data.ocr.recognition import OcrReport


def add_ocr(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Recognise the text in pictures and write each line with its place and score. Pages that were rendered from "
        "PDF files get the text of the files where they have any. Stopped at any moment, it is simply started again."
    )
    pictures = parser.add_mutually_exclusive_group(required=True)
    pictures.add_argument("--documents", nargs="+", type=Path, metavar="STORE", help="document stores")
    pictures.add_argument("--images", type=Path, metavar="DIR", help="folder of pictures, with the folders in it")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="such as ocr.jsonl")
    parser.add_argument("--image-root", type=Path, metavar="DIR", help="what paths start from (default: --images)")
    parser.add_argument(
        "--engine", choices=("rapidocr", "tesseract"), default="rapidocr", help="default: rapidocr (polylens[ocr])"
    )
    parser.add_argument(
        "--text-layer",
        choices=("auto", "only", "never"),
        default="auto",
        help="of PDF pages: where there is one (default), or nothing but it, or not at all",
    )
    parser.add_argument("--pdfs", nargs="+", type=Path, default=[], metavar="PATH", help="PDF files that have moved")
    parser.add_argument("--min-score", type=float, default=0.5, help="of a line that is kept (default: 0.5)")
    parser.add_argument("--languages", default="eng", help="of tesseract, such as deu+eng (default: eng)")
    parser.add_argument("--page-mode", type=int, default=3, help="of tesseract: 3 for pages (default), 11 for photos")
    parser.add_argument("--workers", "--jobs", type=_positive, help="processes (default: one per core)")
    parser.add_argument(
        "--on-bad-record",
        choices=("error", "quarantine"),
        default="error",
        help="stop at pictures that cannot be read (default), or set them aside in FILE.quarantine.jsonl and go on",
    )
    parser.set_defaults(action=_ocr)


def _ocr(args: argparse.Namespace) -> int:
    from polylens.data.ocr.engines import EngineSettings
    from polylens.data.ocr.recognition import recognise

    settings = EngineSettings(args.engine, args.min_score, args.languages, args.page_mode)
    report = recognise(
        _pictures(args),
        args.output,
        settings,
        text_layer=args.text_layer,
        workers=args.workers,
        on_bad_record=args.on_bad_record,
    )
    print(_summary(report, args))
    return 130 if report.interrupted else 0


def _pictures(args: argparse.Namespace) -> Pictures:
    from polylens.data.ocr.pictures import FolderPictures, StorePictures, rendered_pages
    from polylens.errors import InputError

    if args.images is None:
        if args.image_root is not None:
            raise InputError("--image-root is for --images: documents are named by their ids")
        return StorePictures(args.documents, rendered_pages(args.documents, args.pdfs, args.text_layer))
    if args.pdfs or args.text_layer == "only":
        raise InputError("--images has no text layer: it is for pages that 'polylens data render' made (--documents)")
    return FolderPictures(args.images, args.image_root)


def _summary(report: OcrReport, args: argparse.Namespace) -> str:
    begin = "stopped; run it again to go on: " if report.interrupted else ""
    layer = f" ({report.from_text_layer} by their text layer)" if report.from_text_layer else ""
    without = f", {report.without_picture} documents without a picture" if report.without_picture else ""
    aside = f", {report.quarantined} set aside in {args.output}.quarantine.jsonl" if report.quarantined else ""
    total = f"{args.output} has {report.total} pictures with {report.lines} lines"
    return f"{begin}{report.new} new pictures{layer}{without}{aside}: {total}"


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return value
