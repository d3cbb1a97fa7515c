"""The rules of the house (docs/architecture.md), as far as a program can check them."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import ROOT

CORE = ROOT / "core" / "polylens"
PLUGINS = sorted([*ROOT.glob("plugins/*/polylens_*"), *ROOT.glob("examples/polylens_*/polylens_*")])
SOURCES = [path for folder in [CORE, *PLUGINS] for path in sorted(folder.rglob("*.py"))]
COMMANDS = sorted((CORE / "cli").glob("*.py"))

QUICK = ("encode", "search", "evaluate", "data", "plugins")
"""``polylens train --help`` shows the fields of ``TrainingArguments`` and has to import transformers."""

PUBLIC = (
    "polylens",
    "polylens.composition",
    "polylens.contracts",
    "polylens.errors",
    "polylens.modeling",
    "polylens.objectives",
)
"""What a plugin may import, first-party or not; ``polylens.testing`` is for its tests."""

FORBIDDEN = {"pickle", "cloudpickle", "dill", "timm", "torchvision"}
HEAVY = ("torch", "transformers", "jsonargparse", "numpy", "deepspeed", "peft", "PIL", "pymupdf", "jsonschema")


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _imports(tree: ast.AST) -> Iterator[str]:
    """Every module that is imported anywhere in a module; ``from x import y`` gives ``x.y`` for polylens itself."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def test_imports_go_downwards_and_the_core_imports_no_plugin():
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache", "--config", "pyproject.toml"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_linter_knows_every_first_party_plugin():
    import tomllib

    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    first_party = {path.name for path in ROOT.glob("plugins/*/polylens_*")}
    assert set(settings["root_packages"]) == {"polylens", *first_party}
    assert set(settings["contracts"][1]["forbidden_modules"]) == first_party


@pytest.mark.parametrize("package", PLUGINS, ids=lambda path: path.name)
def test_a_plugin_uses_public_modules_and_no_other_plugin(package):
    for path in package.rglob("*.py"):
        for module in _imports(_tree(path)):
            top = module.partition(".")[0]
            assert top == package.name or not top.startswith("polylens_"), f"{_name(path)} imports {module}"
            if top == "polylens":
                public = module in PUBLIC or module.startswith(("polylens.modeling.", "polylens.objectives."))
                assert public, f"{_name(path)} imports {module}, which is not public"


@pytest.mark.parametrize(
    "code",
    [
        "import polylens",
        "import polylens; dir(polylens); polylens.RunConfig; polylens.InputError; polylens.hookimpl",
        "from polylens.cli import main; main(['--help'])",
        "from polylens.cli import main; main(['plugins', 'list'])",
        "from polylens.cli import main; main(['plugins', 'list', '--families'])",
        "from polylens import plugins; plugins.load_all()",
    ],
)
def test_what_must_be_quick_loads_neither_torch_nor_transformers(code):
    check = f"import sys; {code}; print('HEAVY', *({{'torch', 'transformers'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines()[-1].split() == ["HEAVY"], done.stdout + done.stderr


@pytest.mark.parametrize("argv", [["--help"], *([name, "--help"] for name in QUICK)], ids=" ".join)
def test_help_loads_nothing_heavy_at_all(argv):
    """Sub-parsers too: a module of a command imports what it needs when it runs."""
    show = f"print('HEAVY', *({set(HEAVY)} & set(sys.modules)))"
    code = f"import atexit, sys; atexit.register(lambda: {show}); from polylens.cli import main; main({argv})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines()[-1].split() == ["HEAVY"], done.stdout + done.stderr


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: path.stem)
def test_a_command_is_thin(path):
    """Parse, call, print: no loops that compute, no long functions, no types of its own."""
    tree = _tree(path)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 40, f"{node.name} is long for a command"
        assert not isinstance(node, ast.While), "a command does not compute"
    assert path.name == "__init__.py" or not any(isinstance(node, ast.ClassDef) for node in tree.body)


@pytest.mark.parametrize("path", SOURCES, ids=_name)
def test_no_foreign_code_is_run(path):
    """No remote code, no pickle, no unguarded ``torch.load``; no timm, no torchvision."""
    tree = _tree(path)
    assert not {module.partition(".")[0] for module in _imports(tree)} & FORBIDDEN
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        given = {keyword.arg: keyword.value for keyword in call.keywords}
        remote = given.get("trust_remote_code")
        assert remote is None or (isinstance(remote, ast.Constant) and remote.value is False), call.lineno
        if ast.unparse(call.func) == "torch.load":
            guarded = given.get("weights_only")
            assert isinstance(guarded, ast.Constant), f"line {call.lineno}: torch.load without weights_only"
            assert guarded.value is True, f"line {call.lineno}: torch.load without weights_only"


@pytest.mark.parametrize("path", SOURCES, ids=_name)
def test_a_file_holds_one_idea(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 500
