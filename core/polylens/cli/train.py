"""Train a model, in one run or in stages."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from polylens.config.run import RunConfig
    from polylens.config.stages import Stage


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-h", "--help", action="store_true", help="show every option and exit")
    parser.set_defaults(rest=[])  # options come from the plugin, the objective and transformers: polylens.config


def run(args: argparse.Namespace) -> int:
    from polylens.config.parser import named_parts, parse_run
    from polylens.config.stages import parse_stages

    if args.help:
        from polylens.config.help import train_help

        print(train_help(*named_parts(args.rest)))
        return 0
    stages = parse_stages(args.rest)
    return _run(parse_run(args.rest), args.rest) if stages is None else _run_stages(stages, args.rest)


def _run(config: RunConfig, argv: list[str]) -> int:
    from polylens.config.parser import run_text, wants_dry_run, wants_print

    if wants_print(argv):
        print(run_text(config), end="")
    elif wants_dry_run(argv):
        from polylens.engine.dry_run import dry_run

        _tell(dry_run(config))
    else:
        from polylens.api import train

        _tell(train(config))
    return 0


def _run_stages(stages: list[Stage], argv: list[str]) -> int:
    from polylens.config.parser import wants_dry_run, wants_print
    from polylens.config.stages import stages_text

    if wants_print(argv):
        print(stages_text(stages), end="")
    elif wants_dry_run(argv):
        from polylens.engine.dry_run import dry_run_stages

        for stage, prospect in zip(stages, dry_run_stages(stages), strict=True):
            _tell(f"{stage.name}: {prospect}")
    else:
        from polylens.api import train_stages

        for stage, result in train_stages(stages):
            _tell(f"{stage.name}: {result or f'was done before: the model is in {stage.run.output_dir}'}")
    return 0


def _tell(line: object) -> None:
    if os.environ.get("RANK", "0") == "0":
        print(line, flush=True)
