"""``polylens estimate``: a table, or JSON."""

from __future__ import annotations

import json

import pytest

from polylens import cli

TINY = ["estimate", "--model-plugin", "minicpmv", "--model", "tiny", "--image-size", "100x100"]


def test_tables(capsys):
    assert cli.main([*TINY, "--gpus", "1", "2"]) == 0
    printed = capsys.readouterr().out
    assert "Parameters of minicpmv-2.0" in printed
    assert all(word in printed for word in ("Full fine-tuning", "LoRA: GiB", "1 GPU ", "2 GPUs", "Activations"))
    rows = [line.split() for line in printed.splitlines()]
    assert [row for row in rows if row[:2] == ["3", "both"] and len(row) == 4]
    total = next(row for row in rows if row[:1] == ["total"])
    adapter = next(row for row in rows if row[:1] == ["adapter"])
    assert adapter[1] == total[3]


def test_json_is_in_bytes_and_whole(capsys):
    assert cli.main([*TINY, "--gpus", "4", "--lora-r", "8", "--precision", "float32", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    plan = found["plans"]["full"]
    assert plan["parameters"]["weights"] == sum(part["weights"] for part in plan["parameters"]["components"].values())
    way = next(
        way for way in plan["memory"] if (way["stage"], way["offload"], way["low_memory"]) == (1, "none", False)
    )
    assert way["weights"] == 4 * plan["parameters"]["weights"]
    assert way["optimizer"] == 12 * -(-plan["parameters"]["trained"] // 4)
    backward = way["gradients"] + plan["activations"]["plain"]
    rest = way["weights"] + way["optimizer"] + way["buffers"]
    assert way["total"] == rest + max(backward, way["update"])
    assert {way["gpus"] for way in plan["memory"]} == {4}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--image-size", "big"], "'big' is not WIDTHxHEIGHT"), (["--tune", "eyes"], "has no component 'eyes'")],
)
def test_bad_input_is_one_line(arguments, message, capsys):
    assert cli.main([*TINY, *arguments]) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert len(printed.err.splitlines()) == 1
