"""``polylens data synth``: pictures that are made, with labels that are right."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from polylens.data.subtitles.synthesis import SynthesisReport


def add_synth(parser: argparse.ArgumentParser) -> None:
    parser.description = "Make pictures with their labels."
    kinds = parser.add_subparsers(dest="what", metavar="WHAT", required=True)
    _add_subtitles(kinds.add_parser("subtitles", help="subtitles drawn into pictures"))


def _add_subtitles(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Draw sentences as subtitles into pictures, and write labels.jsonl, a conversation for each. A picture "
        "follows from the seed and its number alone. Stopped at any moment, it is simply started again."
    )
    parser.add_argument("--images", type=Path, required=True, metavar="DIR", help="folder of backgrounds")
    parser.add_argument("--sentences", type=Path, required=True, metavar="FILE", help="text file, one sentence a line")
    parser.add_argument("--count", type=int, required=True, metavar="N", help="pictures")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder of pictures and labels")
    parser.add_argument("--seed", type=int, default=42, help="default: 42")
    parser.add_argument("--config", type=Path, metavar="FILE", help="how subtitles look (YAML; docs/subtitles.md)")
    parser.add_argument(
        "--option", action="append", default=[], metavar="NAME=VALUE", help="the same on the command line, which wins"
    )
    parser.add_argument("--prompt", metavar="TEXT", help="what the user asks in every conversation")
    parser.add_argument("--workers", type=_positive, help="processes (default: one per core)")
    parser.add_argument(
        "--on-bad-record",
        choices=("error", "quarantine"),
        default="error",
        help="stop at sentences that cannot be drawn and at damaged backgrounds (default), or go on without them",
    )
    parser.set_defaults(action=_subtitles)


def _subtitles(args: argparse.Namespace) -> int:
    from polylens.config.files import merge, read_run_file
    from polylens.config.options import assignments
    from polylens.data.subtitles.settings import subtitle_settings
    from polylens.data.subtitles.synthesis import PROMPT, synthesize_subtitles

    given = merge(read_run_file(args.config) if args.config else {}, assignments(args.option))
    report = synthesize_subtitles(
        args.images,
        args.sentences,
        args.output,
        args.count,
        seed=args.seed,
        settings=subtitle_settings(given, str(args.config or "--option")),
        prompt=PROMPT if args.prompt is None else args.prompt,
        workers=args.workers,
        on_bad_record=args.on_bad_record,
    )
    print(_summary(report, args.output))
    return 130 if report.interrupted else 0


def _summary(report: SynthesisReport, output: Path) -> str:
    lines = [f"background left out: {reason}" for reason in report.damaged.values()]
    if report.quarantined:
        lines.append(f"{report.quarantined} sentences were set aside in {output / 'quarantine.jsonl'}")
    if report.interrupted:
        lines.append(f"stopped; run it again to go on: {report.new} new pictures in {output}")
    else:
        lines.append(f"{report.new} new pictures, {report.total} in all: {output / 'labels.jsonl'}")
    return "\n".join(lines)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return value
