"""The root of the command line: dispatch, errors, exit codes."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from types import ModuleType, SimpleNamespace

import pytest

from polylens import cli
from polylens.errors import InputError


@pytest.fixture
def command(monkeypatch):
    """Put a module in the place of ``polylens data``; ``run`` is the test's."""

    def install(run, add_arguments=lambda parser: None):
        module = ModuleType("polylens.cli.data")
        vars(module).update(run=run, add_arguments=add_arguments)
        monkeypatch.setitem(sys.modules, "polylens.cli.data", module)

    return install


def _raising(error):
    def run(args):
        raise error

    return run


@pytest.mark.parametrize("argv", [[], ["--help"], ["-h"]])
def test_help_lists_every_command(argv, capsys):
    assert cli.main(argv) == 0
    printed = capsys.readouterr().out
    assert all(f"  {name} " in printed for name in cli.COMMANDS)


def test_the_version_is_printed(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("polylens 0.")


def test_an_unknown_command_gets_the_closest_one(capsys):
    assert cli.main(["trian"]) == 2
    assert capsys.readouterr().err.startswith("polylens: error: unknown command 'trian' (did you mean 'train'?)")


def test_a_command_gives_the_exit_code(command):
    command(lambda args: 1)
    assert cli.main(["data"]) == 1


def test_bad_input_is_one_line_without_a_traceback(command, capsys):
    command(_raising(InputError("no such file")))
    assert cli.main(["data"]) == 2
    assert capsys.readouterr() == ("", "polylens: error: no such file\n")


def test_a_defect_keeps_its_traceback(command):
    command(_raising(RuntimeError("a bug")))
    with pytest.raises(RuntimeError, match="a bug"):
        cli.main(["data"])


def test_other_ranks_say_it_in_short(command, capsys, monkeypatch):
    command(_raising(InputError("word " * 200 + "\nend")))
    monkeypatch.setenv("RANK", "3")
    assert cli.main(["data"]) == 2
    line = capsys.readouterr().err
    assert line.startswith("polylens: rank 3: error: word word")
    assert line.count("\n") == 1
    assert len(line) < 540


def test_an_interrupt_is_one_line(command, capsys):
    command(_raising(KeyboardInterrupt()))
    assert cli.main(["data"]) == 130
    assert capsys.readouterr().err == "polylens: interrupted\n"


def test_a_closed_pipe_is_silent():
    script = "import sys; from polylens.cli import main; sys.exit(main(['--help']))"
    process = subprocess.Popen(
        [sys.executable, "-c", f"import time; time.sleep(0.5); {script}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(timeout=60) == 141


@pytest.mark.parametrize("token", ["--local_rank=1", "--local-rank=0"])
def test_deepspeed_puts_the_rank_first(token, command):
    command(lambda args: 0)
    assert cli.main([token, "data"]) == 0


def test_an_unknown_option_gets_the_closest_one_of_its_sub_command(command, capsys):
    def add_arguments(parser):
        actions = parser.add_subparsers(dest="action")
        actions.add_parser("render").add_argument("--output")
        actions.add_parser("show").add_argument("--outputs")

    command(lambda args: 0, add_arguments)
    assert cli.main(["data", "render", "--outptu", "x"]) == 2
    told = capsys.readouterr().err
    assert "unknown argument '--outptu' (did you mean '--output'?); see polylens data render --help" in told
    assert cli.main(["data", "render", "--outputs", "x"]) == 2
    assert "(did you mean '--output'?)" in capsys.readouterr().err


def test_a_wrong_value_is_reported_like_other_bad_input(command, capsys):
    command(lambda args: 0, lambda parser: parser.add_argument("--k", type=int))
    assert cli.main(["data", "--k", "many"]) == 2
    assert capsys.readouterr().err == (
        "polylens: error: argument --k: invalid int value: 'many'; see polylens data --help\n"
    )


def test_a_command_that_reads_its_own_arguments_gets_them_in_order(command):
    seen = SimpleNamespace()
    command(lambda args: vars(seen).update(rest=args.rest) or 0, lambda parser: parser.set_defaults(rest=[]))
    argv = ["--a", "1", "-2", "b c", "--d=e", "--a", "x"]
    assert cli.main(["data", *argv]) == 0
    assert seen.rest == argv


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_help(name, capsys):
    with contextlib.suppress(SystemExit):  # argparse ends by itself; train prints its own help and returns
        cli.main([name, "--help"])
    assert f"usage: polylens {name}" in capsys.readouterr().out


def test_the_package_runs_as_a_module():
    done = subprocess.run([sys.executable, "-m", "polylens", "--help"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: polylens COMMAND")


def test_a_file_whose_name_is_no_text_is_named_all_the_same(tmp_path):
    path = tmp_path / os.fsdecode(b"p\xff.jsonl")
    path.write_bytes(b'{"query": "x", "positives": []}\n')
    command = [sys.executable, "-m", "polylens", "data", "validate", str(path)]
    done = subprocess.run(command, env={**os.environ, "PYTHONIOENCODING": "utf-8:strict"}, capture_output=True)
    assert (done.returncode, done.stderr) == (2, b"")
    assert rb"p\udcff.jsonl:1: /positives" in done.stdout
