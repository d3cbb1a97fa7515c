"""``polylens benchmark`` as its users start it."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from PIL import Image, ImageFont

from polylens.cli import main

RUN = {"training": {"max_steps": 6, "per_device_train_batch_size": 2, "save_steps": 2, "logging_steps": 1}}


@pytest.fixture
def comparison(tmp_path) -> Path:
    """One tiny model in three modes, on pictures that are made."""
    (tmp_path / "backgrounds").mkdir()
    Image.new("RGB", (64, 64), (20, 30, 40)).save(tmp_path / "backgrounds" / "a.jpg")
    (tmp_path / "s.txt").write_text("".join(f"number {n}\n" for n in range(12)))
    (tmp_path / "font.ttf").write_bytes(ImageFont.load_default(10).font_bytes)
    settings = {"size": [64, 64], "fonts": [str(tmp_path / "font.ttf")], "font_size": [0.2, 0.2]}
    synthesis = {"images": str(tmp_path / "backgrounds"), "sentences": str(tmp_path / "s.txt"), "count": 16}
    content = {
        "output_dir": str(tmp_path / "out"),
        "data": {"synthesis": {**synthesis, "settings": settings}, "test_part": 0.25, "split_by": "id"},
        "models": {"small": {"plugin": "minicpmv", "model": "minicpmv-2.0/tiny", "options": {"max_slice_nums": 1}}},
        "modes": {"lora": {"lora": {"enable": True, "r": 2}}, "full": {}, "as_it_is": None},
        "run": RUN,
        "predict": {"max_new_tokens": 4, "num_workers": 0},
    }
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(content))
    return tmp_path / "c.yaml"


def table(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "results.csv").open(newline="") as file:
        return {row["mode"]: row for row in csv.DictReader(file)}


def test_mistakes_are_found_before_anything_is_trained(comparison, tmp_path, capsys, monkeypatch):
    for option, message in [
        ("modes.full.training.max_stepps=1", "c.yaml: small/full: /training/max_stepps: unknown key"),
        ("models.small.model=tiny-9", "tiny-9"),
        ("models.small.options.slices=1", "c.yaml: small/full: /options/slices: unknown key"),
        ("models.small.plugin=minicpm", "minicpm"),
        ("data.synthesis.sentences=none.txt", "c.yaml: /data/synthesis: there is no file none.txt"),
        ("data.synthesis.settings.size=[1, 1]", "c.yaml: /data/synthesis/settings: /size/0"),
        ("modles.x=1", "c.yaml: /modles: unknown key"),
    ]:
        assert main(["benchmark", str(comparison), "--option", option]) == 2
        assert message in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("small/*/train-*/"))
    files = "data={train: none.jsonl, test: none.jsonl, synthesis: null}"
    assert main(["benchmark", str(comparison), "--option", files]) == 2
    assert "c.yaml: /data/synthesis: None" in capsys.readouterr().err
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["benchmark", str(comparison)]) == 2
    assert "without torchrun" in capsys.readouterr().err


@pytest.mark.long
def test_a_comparison_that_is_killed_goes_on_and_one_that_is_done_stays(comparison, tmp_path, capsys):
    command = [sys.executable, "-m", "polylens", "benchmark", str(comparison)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not list((tmp_path / "out" / "small" / "lora").glob("train-*/checkpoint-2")):
        assert process.poll() is None
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()

    assert main(["benchmark", str(comparison)]) == 0
    assert f"3 of 3 entries: {tmp_path}/out/results.csv" in capsys.readouterr().out
    (record,) = (tmp_path / "out" / "small" / "lora").glob("train-*.step.json")
    killed, whole = json.loads(record.read_text())["attempts"]
    assert killed["seconds"] is None
    rows = table(tmp_path / "out")
    assert float(rows["lora"]["train_seconds"]) == pytest.approx(killed["lost"] + whole["seconds"])
    assert 0 == int(rows["as_it_is"]["trained_parameters"]) < int(rows["lora"]["trained_parameters"])
    assert rows["as_it_is"]["train_seconds"] == ""
    assert all(float(row["cer"]) > 0 and row["failure"] == "" for row in rows.values())
    assert float(rows["full"]["peak_memory_gib"]) > 0.1

    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "small").rglob("*.step.json")}
    assert main(["benchmark", str(comparison)]) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert table(tmp_path / "out") == rows
    assert main(["benchmark", str(comparison), "--option", "modes.full.training.learning_rate=1e30"]) == 1
    printed = capsys.readouterr().out
    assert "small/full: train failed: " in printed
    assert "2 of 3 entries" in printed
    assert table(tmp_path / "out")["lora"] == rows["lora"]
