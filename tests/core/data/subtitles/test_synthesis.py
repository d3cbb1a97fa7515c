from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from polylens.config import schemas
from polylens.data.conversations import read_conversations
from polylens.data.images import ImageOpener
from polylens.data.subtitles.settings import SubtitleSettings
from polylens.data.subtitles.synthesis import synthesize_subtitles
from polylens.errors import InputError


@pytest.fixture
def make(tmp_path, font, backgrounds):
    (tmp_path / "s.txt").write_text('今天\na\t"b", a\n天氣好\n', encoding="utf-8")
    settings = SubtitleSettings(size=(96, 54), fonts=(str(font),), font_size=(0.15, 0.25))
    (tmp_path / "more.txt").write_text('今天\na\t"b"\n明\n', encoding="utf-8")

    def call(name: str, count: int, sentences="s.txt", **options):
        options = {"settings": settings, "workers": 1, **options}
        return synthesize_subtitles(backgrounds, tmp_path / sentences, tmp_path / name, count, **options)

    return call


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "images").rglob("*.jpg"))}


def test_pictures_and_labels(make, tmp_path):
    report = make("out", 40, prompt="What is said?")
    assert (report.new, report.total, report.quarantined, report.damaged) == (40, 40, 0, {})
    found = read_conversations([tmp_path / "out" / "labels.jsonl"])
    opener = ImageOpener(found.image_root)
    for record in found.records:
        assert opener.open(record.images[0], "x").size == (96, 54)
    assert len({record.id for record in found.records}) == 40
    answers = {record.messages[1].parts for record in found.records}
    assert answers == {("今天",), ('a "b", a',), ("天氣好",)}, "a tab is drawn, and written, as a space"
    assert found.records[0].messages[0].parts[1] == "\nWhat is said?"
    schemas.check("synthesis", json.loads((tmp_path / "out" / "synthesis.json").read_text()), "synthesis.json")


def test_neither_number_nor_order_nor_processes_change_a_picture(make, tmp_path):
    make("one", 70)
    make("two", 70, workers=2)
    make("few", 7)
    one = files(tmp_path / "one")
    assert len(one) == 70
    assert len(set(one.values())) == 70
    assert files(tmp_path / "two") == one
    assert files(tmp_path / "few").items() <= one.items()
    labels = (tmp_path / "one" / "labels.jsonl").read_text()
    assert labels.startswith((tmp_path / "few" / "labels.jsonl").read_text())
    assert make("few", 70).new == 63
    assert files(tmp_path / "few") == one
    assert make("other", 7, seed=43).new == 7
    assert not set(files(tmp_path / "other").values()) & set(one.values())


def test_what_is_there_is_not_made_again_but_what_was_cut_short_is(make, tmp_path):
    make("out", 40)
    before = files(tmp_path / "out")
    torn, gone = sorted((tmp_path / "out" / "images").rglob("*.jpg"))[3:5]
    torn.write_bytes(before[torn.name][:100])
    gone.unlink()
    old = torn.with_name("0000009.jpg.123.tmp")
    old.touch()
    os.utime(old, (0, 0))
    assert make("out", 40).new == 2
    assert files(tmp_path / "out") == before
    assert not old.exists()
    assert make("out", 40).new == 0


def test_other_settings_need_another_folder(make, tmp_path):
    make("out", 3)
    with pytest.raises(InputError, match=r"out was made with other seed .*synthesis\.json"):
        make("out", 3, seed=1)
    (tmp_path / "s.txt").write_text("天\n", encoding="utf-8")
    with pytest.raises(InputError, match="made with other sentences"):
        make("out", 3)
    (tmp_path / "foreign" / "images").mkdir(parents=True)
    with pytest.raises(InputError, match=r"no synthesis\.json says how they were made"):
        make("foreign", 3)


def test_bad_input_is_an_error_or_set_aside(make, tmp_path, backgrounds):
    (backgrounds / "torn.jpg").write_bytes((backgrounds / "dark.jpg").read_bytes()[:400])
    with pytest.raises(InputError, match=r"more\.txt:3: no font has all characters of '明'"):
        make("out", 40, "more.txt")
    with pytest.raises(InputError, match=r"picture 'torn\.jpg' cannot be opened"):
        make("out", 40)
    report = make("other", 40, "more.txt", on_bad_record="quarantine")
    assert (report.new, report.quarantined, list(report.damaged)) == (40, 1, ["torn.jpg"])
    assert len((tmp_path / "other" / "quarantine.jsonl").read_text().splitlines()) == 1
    for path in backgrounds.rglob("*.*[gG]"):
        path.write_bytes(b"nothing")
    with pytest.raises(InputError, match="none of the backgrounds drawn for it can be opened"):
        make("none", 1, on_bad_record="quarantine")


def test_wrong_arguments(make, tmp_path, backgrounds):
    with pytest.raises(InputError, match="at least 1"):
        make("out", 0)
    with pytest.raises(InputError, match="must be a question, without placeholders"):
        make("out", 1, prompt="<image> what?")
    with pytest.raises(InputError, match="cannot be read"):
        make("out", 1, "none.txt")
    with pytest.raises(InputError, match="is a folder; sentences are the lines"):
        make("out", 1, "backgrounds")
    for path in [*backgrounds.rglob("*.*[gG]")]:
        path.unlink()
    with pytest.raises(InputError, match="has no pictures"):
        make("out", 1)
    assert not (tmp_path / "out").exists()


def test_a_killed_run_goes_on_and_ends_with_the_same(make, tmp_path, backgrounds, font):
    make("whole", 300)
    command = ["data", "synth", "subtitles", "--images", str(backgrounds), "--sentences", str(tmp_path / "s.txt")]
    command += [
        "--count",
        "300",
        "--output",
        str(tmp_path / "killed"),
        "--workers",
        "2",
        "--option",
        f"fonts=[{font}]",
    ]
    command += ["--option", "size=[96, 54]", "--option", "font_size=[0.15, 0.25]"]
    process = subprocess.Popen([sys.executable, "-m", "polylens", *command], stderr=subprocess.DEVNULL)
    while len(list((tmp_path / "killed").rglob("*.jpg"))) < 20:
        assert process.poll() is None
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed" / "labels.jsonl").exists()
    left = len(files(tmp_path / "killed"))
    time.sleep(1)  # its workers have ended with it
    assert 0 < make("killed", 300).new <= 300 - left
    assert files(tmp_path / "killed") == files(tmp_path / "whole")
    names = ("labels.jsonl", "synthesis.json")
    assert all((tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes() for name in names)
