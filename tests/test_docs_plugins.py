"""The plugin that ``docs/plugins.md`` builds is taken from the page and checked."""

from __future__ import annotations

import importlib
import os
import re
import sys

import pytest
from support import ROOT

from polylens import plugins
from polylens.errors import InputError

PAGE = ROOT / "docs" / "plugins.md"
BLOCK = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)
DIST_INFO = "Metadata-Version: 2.1\nName: polylens-swatch\nVersion: 0.1.0\n"


@pytest.fixture(scope="module")
def swatch(tmp_path_factory):
    """The files that the page shows, installed for the time of these tests."""
    folder = tmp_path_factory.mktemp("swatch")
    files: dict[str, str] = {}
    for language, text in BLOCK.findall(PAGE.read_text(encoding="utf-8")):
        if language == "python":
            name = text.partition("\n")[0].removeprefix("# ")
            files[name] = files.get(name, "") + text + "\n\n"
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    info = folder / "polylens_swatch-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(DIST_INFO)
    (info / "entry_points.txt").write_text("[polylens.plugins]\nswatch = polylens_swatch\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.setenv("PYTHONPATH", os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]))
        importlib.import_module("make_tiny").make_tiny(folder / "polylens_swatch" / "tiny")
        yield folder
        for name in [*sys.modules]:
            if name.startswith("polylens_swatch") or name in ("make_tiny", "check"):
                del sys.modules[name]


def test_keeps_the_contract(swatch):
    assert importlib.import_module("check").report("swatch") == []


def test_implements_every_hook(swatch):
    module = importlib.import_module("polylens_swatch")
    hooks = [name for name, hook in vars(importlib.import_module("polylens.hookspecs")).items() if _is_hook(hook)]
    assert len(hooks) == 8
    assert all(callable(getattr(module, name, None)) for name in hooks)
    assert all(f"### {name}\n" in PAGE.read_text(encoding="utf-8") for name in hooks)


def _is_hook(value):
    return hasattr(value, "polylens_spec")


def test_its_objective_is_found(swatch):
    hooks, broken = plugins.load_all()
    assert "swatch" not in broken
    made = hooks.objective(name="small_states", options={"weight": 2.0})
    assert type(made).__name__ == "SmallStates"
    assert made.weight == 2.0
    with pytest.raises(InputError, match="has no option 'wieght'; it has: weight"):
        hooks.objective(name="small_states", options={"wieght": 2.0})


def test_the_packaging_example_names_the_module():
    import tomllib

    text = next(text for language, text in BLOCK.findall(PAGE.read_text(encoding="utf-8")) if language == "toml")
    assert tomllib.loads(text)["project"]["entry-points"]["polylens.plugins"] == {"swatch": "polylens_swatch"}


def test_every_link_has_its_heading():
    text = PAGE.read_text(encoding="utf-8")
    headings = {line.lstrip("# ").lower().replace(" ", "-") for line in text.splitlines() if line.startswith("#")}
    assert set(re.findall(r"\]\(#([\w-]+)\)", text)) <= headings
