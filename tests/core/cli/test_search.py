from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest
from vector_folders import unit_vectors, write_vectors

from polylens.cli import main
from polylens.retrieval.trec import read_run


@pytest.fixture
def folders(tmp_path):
    write_vectors(tmp_path / "q", unit_vectors(5, 8), kind="query")
    write_vectors(tmp_path / "d", unit_vectors(20, 8, seed=1))
    return ["--queries", str(tmp_path / "q"), "--corpus", str(tmp_path / "d"), "--output", str(tmp_path / "run.trec")]


def test_writes_a_run_and_says_so(tmp_path, folders, capsys):
    assert main(["search", *folders, "--k", "3", "--device", "cpu"]) == 0
    assert [len(found) for found in read_run(tmp_path / "run.trec").values()] == [3] * 5
    output = capsys.readouterr().out
    assert output == f"5 queries, 20 documents: the best 3 of each are in {tmp_path / 'run.trec'}\n"


def test_options_reach_the_search(tmp_path, folders):
    main(["search", *folders, "--k", "20", "--corpus-tile", "3", "--query-tile", "2"])
    whole = read_run(tmp_path / "run.trec")
    main(["search", *folders, "--k", "20", "--truncate-dim", "4"])
    assert read_run(tmp_path / "run.trec") != whole
    folders[1] = folders[3]
    main(["search", *folders, "--exclude-identical"])
    assert [len(found) for found in read_run(tmp_path / "run.trec").values()] == [19] * 20


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--k", "0"], "polylens: error: k is 0, it must be at least 1"),
        (["--truncate-dim", "9"], "polylens: error: truncate_dim is 9, the vectors have 8 dimensions"),
        (["--corpus", "nowhere"], "polylens: error: nowhere/vectors.json is not there"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(tmp_path, folders, capsys, arguments, message):
    assert main(["search", *folders, *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith(message)
    assert error.count("\n") == 1
    assert not (tmp_path / "run.trec").exists()


def test_ctrl_c_leaves_the_old_run(tmp_path, folders):
    write_vectors(tmp_path / "many", unit_vectors(5000, 8), kind="query", rows_per_shard=5000)
    folders[1] = str(tmp_path / "many")
    (tmp_path / "run.trec").write_text("the old run")
    command = [sys.executable, "-m", "polylens", "search", *folders, "--query-tile", "1", "--corpus-tile", "1"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "run.trec.tmp").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60)[1] == "polylens: interrupted\n"
    assert process.returncode == 130
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d", "many", "q", "run.trec"]
    assert (tmp_path / "run.trec").read_text() == "the old run"
