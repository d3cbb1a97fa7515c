"""Plugins that break the contract in one place each, installed as real distributions."""

from __future__ import annotations

import os
import textwrap

import pytest
from support import install

from polylens.testing import Subject

BASE = "from polylens import hookimpl\nimport polylens_minicpmv as base\nfrom polylens_minicpmv import *\n"
"""A working plugin, of which a test redefines one hook."""


@pytest.fixture
def broken(tmp_path, monkeypatch, request):
    """Install MiniCPM-V with some hooks redefined, and give its name."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))

    def make(source):
        name = "broken_" + request.node.name.partition("[")[0].removeprefix("test_")
        install(tmp_path, name.replace("_", "-"), {name: name}, {name: BASE + textwrap.dedent(source)})
        return name

    return make


@pytest.fixture(scope="session")
def subject():
    return Subject("minicpmv")
