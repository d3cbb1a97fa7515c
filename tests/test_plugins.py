"""Discovery and loading of plugins, with real distributions on the path."""

from __future__ import annotations

import subprocess
import sys

import pytest
from support import install

from polylens import plugins
from polylens.errors import InputError

GOOD = "from polylens import hookimpl\n@hookimpl\ndef families():\n    return ['a family']\n"


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Install a distribution for the time of one test."""
    monkeypatch.syspath_prepend(tmp_path)

    def add(name, entry_points, modules):
        install(tmp_path, name, entry_points, modules)

    return add


def test_listing_imports_nothing(installed):
    installed("toy-dist", {"toy_listed": "toy_listed_module"}, {"toy_listed_module": "raise RuntimeError"})
    info = next(info for info in plugins.installed() if info.name == "toy_listed")
    assert (info.distribution, info.version, info.module) == ("toy-dist", "1.0", "toy_listed_module")
    assert "toy_listed_module" not in sys.modules
    assert "core" not in [info.name for info in plugins.installed()]


def test_the_hooks_of_a_plugin_answer_before_the_core(installed):
    source = GOOD + "@hookimpl\ndef collator():\n    return 'mine'\n"
    installed("toy-dist", {"toy": "toy_good"}, {"toy_good": source})
    hooks = plugins.load("toy")
    assert hooks.families() == ["a family"]
    assert hooks.collator(family=None, tokenizer=None, padding_side="right") == "mine"


def test_a_missing_plugin_names_the_installed_ones(installed):
    installed("toy-dist", {"toy_present": "toy_present"}, {"toy_present": GOOD})
    with pytest.raises(InputError) as error:
        plugins.load("toy_presnt")
    message = str(error.value)
    assert message.startswith("no plugin named 'toy_presnt' (did you mean 'toy_present'?); installed plugins: ")
    assert "toy_present" in message.partition("installed plugins: ")[2].split(", ")
    assert "\n" not in message


def test_a_plugin_that_does_not_import_says_why(installed):
    installed("toy-dist", {"toy_broken": "toy_broken"}, {"toy_broken": "import a_module_that_is_not_there"})
    with pytest.raises(InputError, match=r"ModuleNotFoundError: No module named 'a_module_that.*installed plugins: "):
        plugins.load("toy_broken")


def test_a_broken_plugin_leaves_the_others_working(installed):
    source = GOOD + "@hookimpl\ndef objective(name, options):\n    return 'o' if name == 'toy_objective' else None\n"
    modules = {"toy_works": source, "toy_fails": "1 / 0", "toy_unfit": GOOD.replace("families", "famlies")}
    installed("toy-dist", {name: name for name in modules}, modules)
    hooks, broken = plugins.load_all()
    assert hooks.objective(name="toy_objective", options={}) == "o"
    assert "ZeroDivisionError" in broken["toy_fails"]
    assert "famlies" in broken["toy_unfit"]


def test_a_plugin_that_two_packages_claim(installed):
    installed("toy-one", {"toy_twice": "toy_one"}, {"toy_one": GOOD})
    installed("toy-two", {"toy_twice": "toy_two"}, {"toy_two": GOOD})
    with pytest.raises(
        InputError, match=r"'toy_twice' is claimed by several packages \(toy-(one|two), toy-(one|two)\)"
    ):
        plugins.load("toy_twice")


def test_a_hook_that_does_not_exist(installed):
    source = "from polylens import hookimpl\n@hookimpl\ndef famlies():\n    return []\n"
    installed("toy-dist", {"toy_hook": "toy_hook"}, {"toy_hook": source})
    with pytest.raises(InputError, match=r"plugin toy_hook does not fit polylens: .*'famlies'"):
        plugins.load("toy_hook")


def test_a_hook_with_an_argument_that_does_not_exist(installed):
    source = "from polylens import hookimpl\n@hookimpl\ndef collator(famly):\n    return []\n"
    installed("toy-dist", {"toy_argument": "toy_argument"}, {"toy_argument": source})
    with pytest.raises(InputError, match=r"plugin toy_argument does not fit polylens: .*'famly'"):
        plugins.load("toy_argument")


def test_a_submodule_named_like_a_hook_does_not_hide_it(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    package = tmp_path / "toy_package"
    package.mkdir()
    source = "@hookimpl\ndef tokenizer():\n    from toy_package.tokenizer import NAME\n    return NAME\n"
    (package / "__init__.py").write_text("from polylens import hookimpl\n" + source)
    (package / "tokenizer.py").write_text("NAME = 'found'\n")
    install(tmp_path, "toy-dist", {"toy_package": "toy_package"}, {})
    for _ in range(2):  # after the first call the package's attribute is the submodule
        assert plugins.load("toy_package").tokenizer(family=None, source=None) == "found"


def test_a_hook_that_is_hidden_from_the_start_is_named(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    package = tmp_path / "toy_hidden"
    package.mkdir()
    (package / "__init__.py").write_text("from toy_hidden import families\n")
    (package / "families.py").write_text("")
    install(tmp_path, "toy-dist", {"toy_hidden": "toy_hidden"}, {})
    with pytest.raises(InputError, match=r"toy_hidden\.families hides the hook"):
        plugins.load("toy_hidden")


def test_plugins_are_loaded_without_torch():
    code = "import sys; from polylens import plugins; plugins.load_all(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
