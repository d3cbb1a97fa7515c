from __future__ import annotations

import json

import numpy as np
import pytest
from vector_folders import write_vectors

from polylens.cli import main

RUN = "q1\tQ0\ta b\t1\t2.0\tt\nq1\tQ0\tc\t2\t1.0\tt\nq9\tQ0\tc\t1\t1.0\tt\n"
QRELS = "query-id\tcorpus-id\tscore\r\nq1\tc\t1\r\nq2\tc\t1\r\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").write_text(RUN)
    (tmp_path / "set" / "qrels").mkdir(parents=True)
    for name in ("corpus.jsonl", "queries.jsonl"):
        (tmp_path / "set" / name).write_text("")
    (tmp_path / "set" / "qrels" / "test.tsv").write_bytes(QRELS.encode())
    write_vectors(tmp_path / "q", np.eye(2, 3, dtype=np.float32), ids=["q1", "q2"], kind="query")
    write_vectors(tmp_path / "d", np.eye(3, dtype=np.float32), ids=["a b", "c", "x"])
    return tmp_path


def evaluate(*arguments):
    return main(["evaluate", "retrieval", *arguments])


def test_a_run_against_judgements(folder, capsys):
    arguments = ["--qrels", "set/qrels/test.tsv", "--run", "run", "--measures", "MRR@10", "R@1"]
    assert evaluate(*arguments, "--output", "out/result.json", "--per-query", "out/queries.tsv") == 0
    result = json.loads((folder / "out" / "result.json").read_text())
    assert result["mean"] == {"MRR@10": 0.25, "R@1": 0.0}
    assert (result["qrels"], result["run"]) == ("set/qrels/test.tsv", "run")
    assert (folder / "out" / "queries.tsv").read_text().splitlines()[1:] == ["q1\t0.5\t0.0", "q2\t0.0\t0.0"]
    output = capsys.readouterr().out
    assert "MRR@10" in output
    assert "0.2500" in output
    assert "queries without results: 1" in output
    assert "ignored queries: 1" in output
    assert output.endswith("\n2 queries measured, written to out/result.json and out/queries.tsv\n")


def test_vectors_against_a_beir_folder(folder, capsys):
    assert evaluate("--beir", "set", "--queries", "q", "--corpus", "d", "--k", "1", "--output", "result.json") == 0
    result = json.loads((folder / "result.json").read_text())
    # q1 finds a b, c, x: c is second. q2 finds c first. The measures reach deeper than --k.
    assert result["mean"] == pytest.approx({"nDCG@10": (1 + 1 / np.log2(3)) / 2, "RR@10": 0.75, "R@10": 1, "AP": 0.75})
    assert (result["queries_vectors"], result["corpus_vectors"]) == ("q", "d")
    assert capsys.readouterr().out.endswith("\n2 queries measured, written to result.json\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--qrels", "none", "--run", "run"], "none cannot be read: No such file or directory"),
        (["--beir", "set", "--split", "dev", "--run", "run"], "set has no split 'dev'; it has test"),
        (["--beir", "set"], "give either --run FILE, or both --queries DIR and --corpus DIR"),
        (["--beir", "set", "--run", "run", "--corpus", "d"], "give either --run FILE, or both"),
        (["--beir", "set", "--queries", "q"], "give either --run FILE, or both"),
        (["--beir", "set", "--run", "run", "--measures", "nDGC@10"], "unknown measure 'nDGC@10' (did you mean"),
        (["--run", "run"], "one of the arguments --qrels --beir is required"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(folder, capsys, arguments, message):
    assert evaluate(*arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"polylens: error: {message}")
    assert error.count("\n") == 1


def test_several_processes_are_sent_to_search(folder, capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert evaluate("--beir", "set", "--queries", "q", "--corpus", "d") == 2
    assert "search on several with `polylens search`" in capsys.readouterr().err
