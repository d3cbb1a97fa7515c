"""``polylens plugins``: list and check."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from types import ModuleType

import pytest
from support import install

from polylens import cli
from polylens.errors import InputError

FAMILY = """
from dataclasses import dataclass
from pathlib import Path
from polylens import hookimpl
from polylens.contracts import CheckpointLayout, ModelFamily

@dataclass
class Options:
    max_slices: int = 9

@hookimpl
def families():
    layout = CheckpointLayout("hub")
    return [ModelFamily("toy-1", "A toy", bool, {"vision": ("v",)}, {}, {"tiny": Path(".")}, (layout,), Options)]
"""


@dataclass
class Result:
    name: str
    ok: bool
    detail: str


@pytest.fixture
def toys(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    modules = {"toy_cli_family": FAMILY, "toy_cli_broken": "1 / 0"}
    install(tmp_path, "toy-cli", {name: name for name in modules}, modules)


@pytest.fixture
def check(monkeypatch):
    """Put a function in the place of ``polylens.testing.check``."""

    def replace(function):
        module = ModuleType("polylens.testing")
        vars(module)["check"] = function
        monkeypatch.setitem(sys.modules, "polylens.testing", module)

    return replace


def test_list_names_packages_and_imports_nothing(toys, capsys):
    assert cli.main(["plugins", "list"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["NAME", "PACKAGE", "MODULE"]
    assert ["toy_cli_family", "toy-cli", "1.0", "toy_cli_family"] in lines
    assert ["toy_cli_broken", "toy-cli", "1.0", "toy_cli_broken"] in lines
    assert "toy_cli_family" not in sys.modules


def test_families_show_what_can_be_set_and_what_is_broken(toys, capsys):
    assert cli.main(["plugins", "list", "--families"]) == 0
    printed = capsys.readouterr().out
    assert "toy_cli_family (toy-cli 1.0)\n  toy-1: A toy\n    presets: tiny\n    components: vision\n" in printed
    assert "    --max_slices (default: 9)" in printed
    assert "toy_cli_broken (toy-cli 1.0)\n  broken: plugin 'toy_cli_broken'" in printed


@pytest.mark.parametrize(
    ("ok", "code", "verdict"), [(True, 0, "all 2 checks passed"), (False, 1, "1 of 2 checks failed")]
)
def test_check_prints_a_table_and_says_no_by_its_exit_code(ok, code, verdict, check, capsys):
    check(lambda name: [Result("slicing", True, "9 crops"), Result("template", ok, f"of {name}")])
    assert cli.main(["plugins", "check", "toy"]) == code
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].split() == ["ok", "slicing", "9", "crops"]
    assert printed[1].split() == ["ok" if ok else "FAILED", "template", "of", "toy"]
    assert printed[2] == verdict


def test_check_of_a_plugin_that_is_not_there(check, capsys):
    def missing(name):
        raise InputError(f"no plugin named {name!r}")

    check(missing)
    assert cli.main(["plugins", "check", "toy"]) == 2
    assert capsys.readouterr().err == "polylens: error: no plugin named 'toy'\n"


def test_the_action_is_asked_for(capsys):
    assert cli.main(["plugins"]) == 2
    assert "list|check" in capsys.readouterr().err
