"""``polylens benchmark``: several models, trained in several ways on the same data, beside each other."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from polylens.benchmark.running import Outcome


WIDTH = 140
"""Letters of a line of the table at least: a narrower terminal breaks its lines rather than its cells."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Train, merge, ask and measure every model of a file in every mode, and write a table and a page. What is "
        "done is not done again: stopped at any moment, it is simply started again. Exit code 1 if an entry failed."
    )
    parser.add_argument("file", type=Path, help="the comparison (YAML; docs/benchmark.md)")
    parser.add_argument("--output-dir", metavar="DIR", help="in place of the one that the file names")
    parser.add_argument(
        "--option", action="append", default=[], metavar="NAME=VALUE", help="value over that of the file, dots nest"
    )


def run(args: argparse.Namespace) -> int:
    from polylens.benchmark.comparison import read_comparison
    from polylens.benchmark.running import run_comparison
    from polylens.config.options import assignments

    changes = assignments(args.option)
    if args.output_dir is not None:
        changes["output_dir"] = args.output_dir
    outcome = run_comparison(read_comparison(args.file, changes), str(args.file))
    _print(outcome)
    failed = [result for result in outcome.results if result.failure is not None]
    print(f"{len(outcome.results) - len(failed)} of {len(outcome.results)} entries: {outcome.table}, {outcome.page}")
    return 1 if failed else 0


def _print(outcome: Outcome) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    from polylens.benchmark.results import COLUMNS

    console = Console(width=max(WIDTH, Console().width))
    table = Table("model / mode", box=SIMPLE_HEAD)
    for column in COLUMNS:
        table.add_column(column.title, justify="right", no_wrap=True)
    for result in outcome.results:
        cells = ["–" if (value := column.value(result)) is None else column.text(value) for column in COLUMNS]
        table.add_row(result.entry.name, *cells)
    console.print(table)
    for result in outcome.results:
        if result.failure is not None:
            line = f"{result.entry.name}: {result.failure.step} failed: {result.failure.reason}"
            console.print(f"{line}; see {result.failure.log}", highlight=False, markup=False, soft_wrap=True)
