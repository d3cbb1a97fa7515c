"""OCR files, and lists of OCR lines as REMGCL writes them."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fuzz.kinds.lines import lines_of, mutated, set_aside, value_of
from fuzz.mutators import dump, mutate_bytes, mutate_value, several
from fuzz.outcome import require
from fuzz.samples import picture

from polylens.contracts import ImageRef
from polylens.data.ocr.foreign import convert_ocr
from polylens.data.ocr.lines import OcrLines, read_ocr_lines
from polylens.data.validate import validate
from polylens.errors import InputError

SIZE = (24, 18)


def record(lines: Sequence[Any], **named: str) -> dict[str, Any]:
    return {**named, "width": SIZE[0], "height": SIZE[1], "engine": "e 1", "lines": list(lines)}


class OcrFile:
    """Lines of text in pictures of a folder and in documents."""

    VALUES = (
        record([{"box": [1, 2, 9, 6], "text": "Größe 泵", "score": 0.9}], image="ok.png"),
        record([], image="two.png"),
        record(
            [
                {"box": [0, 0, 24.0, 5.5], "text": "a", "score": 1, "polygon": [[0, 0], [24, 1], [24, 5], [0, 4]]},
                {"box": [-1.5, 6, 25, 12], "text": "sticks out", "score": 0},
            ],
            document="a.pdf#1",
        ),
        record([{"box": [3, 3, 4, 4], "text": ".", "score": 0.5}], image="sub/../three.png"),
    )

    def __init__(self, base: Path) -> None: ...

    def write(self, rng: random.Random, folder: Path) -> None:
        for number, name in enumerate(("ok.png", "two.png", "three.png")):
            (folder / name).write_bytes(picture(number))
        (folder / "ocr.jsonl").write_bytes(mutated(rng, self.VALUES))

    def read(self, folder: Path) -> int:
        path, aside = folder / "ocr.jsonl", folder / "quarantine.jsonl"
        found = read_ocr_lines([path], image_root=folder, on_bad_record="quarantine", quarantine=aside)
        lines = lines_of(path)
        bad = set_aside(aside, path, lines)
        require(len(found) + len(bad) == len(lines), "a line was neither delivered nor set aside")
        for number in lines.keys() - bad:
            _compare(found, value_of(number, lines[number]))
        findings = validate(path, kind="ocr", image_root=folder)
        require(findings.bad >= len(bad), "validate did not find what is set aside")
        return len(bad)

    def commands(self, folder: Path) -> Sequence[Sequence[str]]:
        path = str(folder / "ocr.jsonl")
        return [["data", task, path, "--kind", "ocr"] for task in ("validate", "stats", "show")]


def _compare(found: OcrLines, value: dict[str, Any]) -> None:
    """Every line is there with its text, in a box that is not empty and lies in the picture and in its own box."""
    ref = ImageRef("document", value["document"]) if "document" in value else ImageRef("path", value["image"])
    lines = found.of(ref, (value["width"], value["height"]))
    require([line.text for line in lines] == [line["text"] for line in value["lines"]], "lines were lost or changed")
    for line, given in zip(lines, value["lines"], strict=True):
        left, top, right, bottom = line.box
        require(0 <= left < right <= value["width"] and 0 <= top < bottom <= value["height"], f"the box {line.box}")
        inside = given["box"][0] <= left and right <= given["box"][2] and given["box"][1] <= top
        require(inside and bottom <= given["box"][3] and line.score == given["score"], f"{line} was {given}")


class OcrList:
    """An array of REMGCL, whose corners are shares or pixels."""

    VALUES = (
        {"id": "1", "image": "ok.png", "ocr": [[[[0.1, 0.1], [0.9, 0.1], [0.9, 0.5], [0.1, 0.5]], ["STEM", 0.98]]]},
        {"id": 2, "image": "two.png", "ocr": None, "width": 24, "height": 18},
        {
            "id": "3",
            "image": "three.png",
            "ocr": [[[[2, 2], [20, 2], [20, 9], [2, 9]], ["OPEN", 1.0]]],
            "caption": "c",
        },
    )

    def __init__(self, base: Path) -> None: ...

    def write(self, rng: random.Random, folder: Path) -> None:
        for number, name in enumerate(("ok.png", "two.png", "three.png")):
            (folder / name).write_bytes(picture(number))
        changed = [several(rng, mutate_value, value) if rng.random() < 0.3 else value for value in self.VALUES]
        data = ("[" + ",\n".join(map(dump, changed)) + "]").encode("utf-8", errors="surrogatepass")
        (folder / "list.json").write_bytes(mutate_bytes(rng, data) if rng.random() < 0.3 else data)

    def read(self, folder: Path) -> int:
        path = folder / "list.json"
        made = convert_ocr([path], folder / "out", on_bad_record="quarantine")
        values = json.loads(path.read_text(encoding="utf-8-sig"), parse_int=str)
        require(made.pictures + made.quarantined == len(values), "a record was neither written nor set aside")
        found = read_ocr_lines([folder / "out" / "ocr.jsonl"])
        require(len(found) == made.pictures, "what was converted cannot be read")
        problems = validate(folder / "out" / "ocr.jsonl", image_root=folder).problems
        missing = [problem for problem in problems if "does not exist" in problem or "is not a path" in problem]
        outside = [problem for problem in problems if "outside the image root" in problem]
        require(len(missing) + len(outside) == len(problems), f"what was converted is wrong: {problems}")
        return made.quarantined

    def commands(self, folder: Path) -> Sequence[Sequence[str]]:
        try:
            json.loads((folder / "list.json").read_text(encoding="utf-8-sig"))
        except (ValueError, InputError):
            return []
        return [["data", "convert", str(folder / "list.json"), "--output", str(folder / "by_command")]]
