from __future__ import annotations

import pytest
from support import torchrun
from vector_folders import unit_vectors, write_vectors

from polylens.cli import main
from polylens.errors import InputError
from polylens.retrieval.distributed import search_to_run
from polylens.retrieval.search import SearchOptions
from polylens.retrieval.trec import read_run

COMMAND = "import sys; from polylens.cli import main; raise SystemExit(main(sys.argv[1:]))"


def test_two_ranks_write_the_run_of_one_byte_for_byte(tmp_path):
    queries, corpus = unit_vectors(100, 64), unit_vectors(1500, 64, seed=1)
    corpus[700:] = corpus[:800]  # ties
    write_vectors(tmp_path / "q", queries, kind="query", rows_per_shard=30)
    write_vectors(tmp_path / "d", corpus, rows_per_shard=400)
    arguments = ["search", "--queries", tmp_path / "q", "--corpus", tmp_path / "d", "--k", "20", "--device", "cpu"]
    arguments += ["--query-tile", "16", "--corpus-tile", "256"]
    assert main([str(argument) for argument in [*arguments, "--output", tmp_path / "one"]]) == 0
    ranks = torchrun("-c", COMMAND, *arguments, "--output", tmp_path / "two", nproc=2)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    run = read_run(tmp_path / "two")
    assert list(run) == [f"query {i}" for i in range(100)]
    assert {len(found) for found in run.values()} == {20}
    assert "100 queries, 1500 documents: the best 20 of each are in" in ranks[0].output
    assert "100 queries" not in ranks[1].output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d", "one", "q", "two"]


def test_a_refused_search_leaves_the_old_run(tmp_path):
    output = tmp_path / "run"
    output.write_text("old")
    queries = write_vectors(tmp_path / "q", unit_vectors(3, 4), kind="query")
    corpus = write_vectors(tmp_path / "d", unit_vectors(3, 5))
    with pytest.raises(InputError):
        search_to_run(queries, corpus, output, SearchOptions())
    assert output.read_text() == "old"
    assert not (tmp_path / "run.tmp").exists()


def test_no_queries_give_an_empty_run(tmp_path):
    queries = write_vectors(tmp_path / "q", unit_vectors(0, 4), kind="query")
    corpus = write_vectors(tmp_path / "d", unit_vectors(3, 4))
    assert search_to_run(queries, corpus, tmp_path / "runs" / "run", SearchOptions())
    assert (tmp_path / "runs" / "run").read_text() == ""
