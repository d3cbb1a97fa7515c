"""Train a retriever."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-h", "--help", action="store_true", help="show every option and exit")
    parser.set_defaults(rest=[])  # options come from the plugin, the objective and transformers: polylens.config


def run(args: argparse.Namespace) -> int:
    from polylens.config.parser import named_plugin, parse_run, run_text, wants_print

    if args.help:
        from polylens.config.help import train_help

        print(train_help(named_plugin(args.rest)))
        return 0
    config = parse_run(args.rest)
    if wants_print(args.rest):
        print(run_text(config), end="")
        return 0
    from polylens.api import train

    result = train(config)
    if result.is_main:
        print(result)
    return 0
