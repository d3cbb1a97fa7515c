"""The command ``polylens``: finds the module of a sub-command, runs it, and turns errors into exit codes.

A sub-command is a module ``polylens.cli.<name>`` with ``add_arguments(parser)`` and ``run(args) -> int``. Only the one
that was named is imported, so that ``polylens --help`` stays quick.

Exit codes: 0 done; 1 the work was done and its answer is no (``plugins check``); 2 the input cannot be used, or the
machine ended a part of the run; 130 interrupted, by Ctrl-C or SIGTERM; 141 the reader of the output went away.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

from polylens.errors import InputError, closest, is_disk_full

COMMANDS = {
    "train": "train a model that finds pages, or one that answers",
    "compose": "make a new model of a language model and a vision tower",
    "merge": "make one model of an adapter and its base, of several models, of a ZeRO checkpoint",
    "encode": "turn documents or queries into vectors",
    "search": "find the documents of each query, exactly",
    "chat": "talk to a model about pictures",
    "predict": "answer the records of conversations files",
    "evaluate": "measure a run, or answers, against what is right",
    "benchmark": "train, ask and measure several models on the same data",
    "inspect": "show what a model sees of training records, as a page",
    "estimate": "memory that training will take, before anything is loaded",
    "data": "render, pair, check and show data",
    "plugins": "list and check plugins",
}

_LOCAL_RANK = re.compile(r"--local[-_]rank=\d+")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # file names need not be text that the terminal can show
    try:
        code = _dispatch(_without_local_rank(arguments))
        sys.stdout.flush()
        return code
    except InputError as error:
        print(_report(str(error)), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        if os.environ.get("RANK", "0") == "0":
            print("polylens: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes once more at exit
        return 141
    except OSError as error:
        if not is_disk_full(error):
            raise
        print(_report(f"{error}: make room and start again"), file=sys.stderr)
        return 2


class Parser(argparse.ArgumentParser):
    """Reports a wrong command line as ``InputError``, like any other bad input."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see {self.prog} --help")


def _dispatch(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print(_overview())
        return 0
    if argv[0] == "--version":
        import polylens

        print(f"polylens {polylens.__version__}")
        return 0
    name = argv[0]
    if name not in COMMANDS:
        raise InputError(f"unknown command {name!r}{closest(name, COMMANDS)}; commands: {', '.join(COMMANDS)}")
    from polylens.signals import ends_when_told

    module = import_module(f"polylens.cli.{name}")
    parser = Parser(
        prog=f"polylens {name}", description=module.__doc__, allow_abbrev=False, conflict_handler="resolve"
    )
    module.add_arguments(parser)
    args = _parse(parser, argv[1:])
    with ends_when_told():
        return module.run(args)


def _parse(parser: Parser, argv: list[str]) -> argparse.Namespace:
    """Arguments of a command. One that reads its own (``train``) has set ``rest`` and finds them there."""
    args, rest = parser.parse_known_args(argv)
    if rest and not hasattr(args, "rest"):
        chosen = _chosen(parser, argv)
        options = [option for action in chosen._actions for option in action.option_strings]
        hint = closest(rest[0].partition("=")[0], options)
        raise InputError(f"unknown argument {rest[0]!r}{hint}; see {chosen.prog} --help")
    if hasattr(args, "rest"):
        args.rest = rest
    return args


def _chosen(parser: argparse.ArgumentParser, argv: Sequence[str]) -> argparse.ArgumentParser:
    """The parser of the sub-command that was given, however deep."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for i, word in enumerate(argv):
                if word in action.choices:
                    return _chosen(action.choices[word], argv[i + 1 :])
    return parser


def _without_local_rank(argv: list[str]) -> list[str]:
    """``deepspeed`` puts ``--local_rank=N`` before everything else; the environment says the same."""
    return argv[1:] if argv and _LOCAL_RANK.fullmatch(argv[0]) else argv


def _report(message: str, limit: int = 500) -> str:
    """Rank 0 says everything, the others one line: it may be all there is, if the launcher ends rank 0 first."""
    rank = os.environ.get("RANK", "0")
    if rank == "0":
        return f"polylens: error: {message}"
    line = " ".join(message.split())
    return f"polylens: rank {rank}: error: {line if len(line) <= limit else line[: limit - 1] + '…'}"


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {text}" for name, text in COMMANDS.items()]
    return "\n".join(["usage: polylens COMMAND [ARGUMENTS]", "", *lines, "", "polylens COMMAND --help says more."])
