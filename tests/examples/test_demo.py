"""The demo's own parts: how it divides queries, and how it remembers what is done."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"demo_{name}", EXAMPLES / "demo" / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


queries, steps = load("queries"), load("steps")


def test_queries_are_divided_page_by_page_without_overlap() -> None:
    pairs = queries.read_pairs(EXAMPLES / "manuals" / "pairs.jsonl")
    parts = queries.divide(pairs)
    ids = [pair["id"] for part in (parts.training, parts.validation, parts.test) for pair in part]
    assert sorted(ids) == sorted(pair["id"] for pair in pairs)
    assert (len(parts.training), len(parts.validation), len(parts.test)) == (240, 60, 120)
    for part in (parts.training, parts.validation, parts.test):
        assert len(queries.pages_of(part)) == 60
    assert queries.divide(pairs[::-1]).test == parts.test


def test_qrels_name_every_query_once(tmp_path: Path) -> None:
    from polylens.retrieval.trec import read_qrels

    pairs = [{"id": "a", "positives": ["m.pdf#1"]}, {"id": "b", "positives": ["m.pdf#2", "n.pdf#1"]}]
    path = queries.write_qrels(tmp_path / "q.tsv", pairs)
    assert read_qrels(path) == {"a": {"m.pdf#1": 1}, "b": {"m.pdf#2": 1, "n.pdf#1": 1}}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Commands that would be run; each writes the output that its last word names."""
    ran: list[str] = []

    def run(command: list[str]) -> float:
        ran.append(command[3])
        with Path(command[-1]).open("a", encoding="utf-8") as file:
            file.write(command[3])
        return 1.5

    monkeypatch.setattr(steps, "_run", run)
    (tmp_path / "input").write_text("one", encoding="utf-8")
    return ran


def run_both(folder: Path, second: str = "search") -> list[float]:
    runner = steps.Steps(folder / "out", [folder / "input"])
    runner.polylens("encode", folder / "vectors", output=folder / "vectors")
    runner.polylens(second, folder / "run", output=folder / "run")
    return [command.seconds for command in runner.done]


def test_commands_that_are_done_are_left_out(calls: list[str], tmp_path: Path) -> None:
    assert run_both(tmp_path) == run_both(tmp_path) == [1.5, 1.5]
    assert calls == ["encode", "search"]


def test_a_missing_output_is_made_again(calls: list[str], tmp_path: Path) -> None:
    run_both(tmp_path)
    (tmp_path / "vectors").unlink()
    run_both(tmp_path)
    assert calls == ["encode", "search", "encode"]


def test_a_changed_command_loses_its_old_output(calls: list[str], tmp_path: Path) -> None:
    run_both(tmp_path)
    run_both(tmp_path, second="rank")
    assert calls == ["encode", "search", "rank"]
    assert (tmp_path / "run").read_text(encoding="utf-8") == "rank"


def test_changed_inputs_repeat_everything(calls: list[str], tmp_path: Path) -> None:
    run_both(tmp_path)
    (tmp_path / "input").write_text("two", encoding="utf-8")
    run_both(tmp_path)
    assert calls == ["encode", "search"] * 2
    assert (tmp_path / "vectors").read_text(encoding="utf-8") == "encode"


def test_a_command_that_was_stopped_goes_on_with_what_it_left(
    calls: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(command: list[str]) -> float:
        Path(command[-1]).write_text("half of it, ", encoding="utf-8")
        raise SystemExit(130)

    with monkeypatch.context() as patch:
        patch.setattr(steps, "_run", stop)
        with pytest.raises(SystemExit):
            run_both(tmp_path)
    run_both(tmp_path)
    assert (tmp_path / "vectors").read_text(encoding="utf-8") == "half of it, encode"


def test_a_failure_ends_the_demo_with_the_command_s_exit_code(tmp_path: Path) -> None:
    runner = steps.Steps(tmp_path, [])
    with pytest.raises(SystemExit) as stopped:
        runner.polylens("no-such-command", output=tmp_path / "x")
    assert stopped.value.code == 2
