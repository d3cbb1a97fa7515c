from __future__ import annotations

import pytest
import torch

from polylens.cli import main


@pytest.fixture
def queries(tmp_path):
    path = tmp_path / "queries.jsonl"
    path.write_text('{"_id": "1", "text": "drain the pump"}\n{"_id": "2", "text": "排水"}\n', encoding="utf-8")
    return ["--queries", str(path), "--output", str(tmp_path / "vectors")]


def test_encodes_queries_and_says_so(tmp_path, queries, capsys):
    assert main(["encode", "--model", "tiny", "--model-plugin", "minicpmv", *queries, "--num-workers", "0"]) == 0
    assert capsys.readouterr().out == f"2 query vectors of 128 dimensions are in {tmp_path / 'vectors'}\n"
    assert (tmp_path / "vectors" / "vectors.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch-size", "0"], "batch_size is 0, it must be at least 1"),
        (["--rows-per-shard", "0"], "rows_per_shard is 0, it must be at least 1"),
        (["--num-workers", "-1"], "num_workers is -1, it must be at least 0"),
        (["--device", "gpu"], "unknown device 'gpu': use cpu, cuda, cuda:1 or auto"),
        pytest.param(
            ["--device", "cuda"],
            "device 'cuda': this machine has no GPU that torch can use",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
        ),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(tmp_path, queries, capsys, arguments, message):
    assert main(["encode", "--model", "tiny", "--model-plugin", "minicpmv", *queries, *arguments]) == 2
    assert capsys.readouterr().err == f"polylens: error: {message}\n"
    assert not (tmp_path / "vectors").exists()
