"""List the installed plugins, or check one against the contract."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="list|check")
    listing = actions.add_parser("list", help="name, package and version of every plugin; imports nothing")
    listing.add_argument("--families", action="store_true", help="import the plugins; show families, presets, options")
    check = actions.add_parser("check", help="run the conformance tests of polylens.testing on a plugin")
    check.add_argument("name", help="name of an installed plugin")


def run(args: argparse.Namespace) -> int:
    if args.action == "list":
        from polylens.plugin_report import families_text, plugins_text

        print(families_text() if args.families else plugins_text())
        return 0
    from polylens.plugin_report import results_text
    from polylens.testing import check

    results = check(args.name)
    print(results_text(results))
    return 0 if all(result.ok for result in results) else 1
