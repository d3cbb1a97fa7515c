"""Lists of pictures with texts, sentences of subtitles, and files of comparisons."""

from __future__ import annotations

import csv
import io
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from fuzz.kinds.lines import mutated
from fuzz.mutators import mutate_bytes, mutate_lines, mutate_value, several
from fuzz.outcome import require
from fuzz.samples import picture
from PIL import ImageFont

from polylens.benchmark.comparison import read_comparison
from polylens.data.captions import ListLayout
from polylens.data.conversations import read_conversations
from polylens.data.convert_conversations import Conversion, convert_conversations
from polylens.data.records import Quarantine
from polylens.data.subtitles.fonts import find_faces
from polylens.data.subtitles.sentences import read_sentences
from polylens.data.subtitles.settings import SubtitleSettings, subtitle_settings
from polylens.errors import InputError

ROWS = (
    {"id": "r1", "image": "ok.png", "text": 'one, "two"'},
    {"id": "r2", "image": "two.png", "text": "Größe 泵\nzwei"},
    {"id": "r3", "image": "ok.png", "text": "three\t3"},
)
LETTERS = "".join(map(chr, range(32, 127))) + "é"


class ListFile:
    """A table or JSON Lines, made into conversations in two parts."""

    def __init__(self, base: Path) -> None: ...

    def write(self, rng: random.Random, folder: Path) -> None:
        for number, name in enumerate(("ok.png", "two.png")):
            (folder / name).write_bytes(picture(number))
        kind = rng.choice(["csv", "tsv", "jsonl"])
        data = mutated(rng, ROWS) if kind == "jsonl" else _table(rng, "," if kind == "csv" else "\t")
        (folder / f"list.{kind}").write_bytes(data)

    def read(self, folder: Path) -> int:
        (path,) = folder.glob("list.*")
        conversion = Conversion(prompt="Which?", layout=ListLayout(), splits={"a": 0.5, "b": 0.5}, split_by="answer")
        whole = Conversion(prompt="Which?", turns="from")
        report = convert_conversations([path], folder / "out", whole, on_bad_record="quarantine")
        made = read_conversations([folder / "out" / "conversations.jsonl"], image_root=folder)
        require(sum(report.files.values()) == len(made.records), "records were lost")
        aside = folder / "out" / "quarantine.jsonl"
        lines = aside.read_text(encoding="utf-8").split("\n")[:-1] if aside.exists() else []
        require(len(lines) == report.quarantined, "the counts are wrong")
        if path.suffix == ".jsonl":
            given = sum(bool(line.strip()) for line in path.read_bytes().split(b"\n"))
            require(given == len(made.records) + len(lines), "a line was neither written nor set aside")
        if len(made.records) > 1:
            _divide(path, folder, conversion, len(made.records))
        return report.quarantined

    def commands(self, folder: Path) -> Sequence[Sequence[str]]:
        (path,) = map(str, folder.glob("list.*"))
        return [["data", "convert", path, "--prompt", "Which?", "--output", str(folder / "by_command")]]


def _divide(path: Path, folder: Path, conversion: Conversion, count: int) -> None:
    try:
        divided = convert_conversations([path], folder / "divided", conversion, on_bad_record="quarantine")
    except InputError as error:
        require("gets none of" in str(error), f"what was converted cannot be divided: {error}")
    else:
        require(sum(divided.files.values()) == count, "a division lost records")


def _table(rng: random.Random, delimiter: str) -> bytes:
    buffer = io.StringIO(newline="")
    quoting = csv.QUOTE_MINIMAL if delimiter == "," else csv.QUOTE_NONE
    writer = csv.writer(buffer, delimiter=delimiter, quoting=quoting, escapechar="\\")
    writer.writerow(["id", "image", "text"])
    for row in ROWS:
        values = [
            value.replace("\n", " ").replace("\t", " ") if delimiter == "\t" else value for value in row.values()
        ]
        writer.writerow(values)
    data = buffer.getvalue().encode()
    return several(rng, rng.choice([mutate_bytes, mutate_lines]), data) if rng.random() < 0.7 else data


class SentencesFile:
    """Sentences of subtitles, with settings."""

    def __init__(self, base: Path) -> None:
        self.font = base / "font.ttf"
        self.font.write_bytes(ImageFont.load_default(10).font_bytes)

    def write(self, rng: random.Random, folder: Path) -> None:
        data = f"plain\r\nwith é\ta tab\n\n{LETTERS}\n今天\n".encode()
        (folder / "s.txt").write_bytes(several(rng, mutate_bytes, data) if rng.random() < 0.7 else data)
        given: Any = {"size": [320, 180], "font_size": [0.1, 0.2], "colours": [{"low": [0, 0, 0], "high": [1, 2, 3]}]}
        given = several(rng, mutate_value, given) if rng.random() < 0.3 else given
        (folder / "look.json").write_text(json.dumps(given, default=str))

    def read(self, folder: Path) -> int:
        given = json.loads((folder / "look.json").read_text())
        settings = subtitle_settings(given, "look.json") if isinstance(given, dict) else SubtitleSettings()
        with Quarantine("quarantine", folder / "quarantine.jsonl") as bad:
            found = read_sentences(folder / "s.txt", find_faces([str(self.font)]), settings, bad)
        given = sum(bool(line.strip()) for line in (folder / "s.txt").read_bytes().split(b"\n"))
        require(len(found) + bad.count <= given, "sentences were made up")
        require(all(one.text and one.text == one.text.strip() for one in found), "a sentence has nothing to draw")
        return bad.count

    def commands(self, folder: Path) -> Sequence[Sequence[str]]:
        return []


class ComparisonFile:
    """A comparison in YAML."""

    VALUE: Mapping[str, Any] = {
        "output_dir": "out",
        "data": {"synthesis": {"images": "a", "sentences": "b", "count": 5, "settings": {"size": [64, 64]}}},
        "models": {"a": {"plugin": "minicpmv", "model": "tiny", "options": {"max_slice_nums": 1}, "run": {}}},
        "modes": {"lora": {"lora": {"enable": True}, "data": {"max_length": 5}}, "as_it_is": None},
        "predict": {"batch_size": 2},
        "processes": 2,
    }

    def __init__(self, base: Path) -> None: ...

    def write(self, rng: random.Random, folder: Path) -> None:
        value = several(rng, mutate_value, self.VALUE) if rng.random() < 0.8 else self.VALUE
        data = yaml.safe_dump(json.loads(json.dumps(value, default=str)), allow_unicode=True).encode(
            "utf-8", "surrogatepass"
        )
        (folder / "c.yaml").write_bytes(mutate_bytes(rng, data) if rng.random() < 0.3 else data)

    def read(self, folder: Path) -> int:
        found = read_comparison(folder / "c.yaml")
        require(bool(found.models and found.modes and found.output_dir), "a comparison of nothing")
        return 0

    def commands(self, folder: Path) -> Sequence[Sequence[str]]:
        return []
