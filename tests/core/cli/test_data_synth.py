"""From sentences and pictures to the files of a training run."""

from __future__ import annotations

import json

import pytest
from PIL import Image, ImageFont

from polylens.cli import main


@pytest.fixture
def synth(tmp_path):
    (tmp_path / "backgrounds").mkdir()
    Image.new("RGB", (64, 36), (20, 30, 40)).save(tmp_path / "backgrounds" / "a.jpg")
    (tmp_path / "s.txt").write_text("".join(f"number {n}\n" for n in range(30)))
    (tmp_path / "font.ttf").write_bytes(ImageFont.load_default(10).font_bytes)  # the font that Pillow brings along
    (tmp_path / "look.yaml").write_text(f"size: [160, 90]\nfonts: [{tmp_path}/font.ttf]\n")
    given = {"images": "backgrounds", "sentences": "s.txt", "output": "out", "config": "look.yaml"}
    command = ["data", "synth", "subtitles", "--count", "60", "--workers", "1"]
    return command + [part for name, path in given.items() for part in (f"--{name}", str(tmp_path / path))]


def test_synthesis_and_division(synth, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(synth) == 0
    assert capsys.readouterr().out == f"60 new pictures, 60 in all: {out}/labels.jsonl\n"
    assert main(synth) == 0
    assert capsys.readouterr().out == f"0 new pictures, 60 in all: {out}/labels.jsonl\n"
    assert main([*synth, "--option", "font_size=[0.1, 0.1]"]) == 2
    assert "was made with other settings" in capsys.readouterr().err
    assert main([*synth, "--option", "font_sise=1"]) == 2
    assert "look.yaml: /font_sise: unknown key (did you mean 'font_size'?)" in capsys.readouterr().err

    divide = ["data", "convert", str(out / "labels.jsonl"), "--output", str(out), "--split", "train=0.8", "test=0.2"]
    assert main([*divide, "--split-by", "answer"]) == 0
    assert f" records in {out}/train.jsonl, " in capsys.readouterr().out
    assert main(["data", "validate", str(out / "train.jsonl")]) == 0
    records = [json.loads(line) for name in ("train", "test") for line in (out / f"{name}.jsonl").open()]
    assert len(records) == 60


def test_sentences_without_glyphs(synth, tmp_path, capsys):
    with (tmp_path / "s.txt").open("a", encoding="utf-8") as file:
        file.write("今天\n")
    assert main(synth) == 2
    assert "s.txt:31: no font has all characters of '今天'" in capsys.readouterr().err
    assert main([*synth, "--on-bad-record", "quarantine"]) == 0
    first, last = capsys.readouterr().out.splitlines()
    assert first == f"1 sentences were set aside in {tmp_path}/out/quarantine.jsonl"
    assert last.startswith("60 new pictures")


def test_options_that_belong_elsewhere_are_refused(tmp_path, capsys):
    (tmp_path / "talk.jsonl").write_text('{"conversations": [{"role": "user", "content": "x"}]}\n')
    (tmp_path / "list.csv").write_text("image,text\n")
    (tmp_path / "documents.jsonl").write_text('{"id": "a", "text": "b"}\n')
    for arguments, message in [
        (["list.csv"], "a list of pictures with texts needs --prompt"),
        (["talk.jsonl", "--header", "image", "text"], "--column, --header and --delimiter are for lists"),
        (["talk.jsonl", "--split", "train"], "'train' is not NAME=VALUE"),
        (["talk.jsonl", "--split", "train=all"], "split train: its part is 'all'"),
        (["documents.jsonl", "--split-by", "image"], "--split-by is for conversations, and these are documents"),
        (["list.csv", "--prompt", "What?"], "no record is left"),
    ]:
        command = ["data", "convert", str(tmp_path / arguments[0]), *arguments[1:], "--output", str(tmp_path / "out")]
        assert main(command) == 2
        assert message in capsys.readouterr().err
