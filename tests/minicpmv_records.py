"""Records of the original fine-tuning format, as messages and pictures."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from polylens.contracts import ImageRef, Message


class Original(NamedTuple):
    """A record, its pictures in reading order, and what the original made of it."""

    messages: list[Message]
    images: list[Image.Image]
    expected: dict[str, Any]


def original_records(folder: Path) -> Iterator[Original]:
    records = json.loads((folder / "data.json").read_text(encoding="utf-8"))
    expected = json.loads((folder / "preprocess.json").read_text(encoding="utf-8"))
    for record, encoded in zip(records, expected, strict=True):
        pictures = record["image"] if isinstance(record["image"], dict) else {"<image>": record["image"]}
        turns = record["conversations"]
        if not any(name in turns[0]["content"] for name in pictures):
            turns[0]["content"] = "<image>\n" + turns[0]["content"]
        messages = [Message(turn["role"], _parts(turn["content"], pictures)) for turn in turns]
        refs = [part for message in messages for part in message.parts if isinstance(part, ImageRef)]
        images = [Image.open(folder / str(ref.value)).convert("RGB") for ref in refs]
        yield Original(messages, images, encoded)


def _parts(text: str, pictures: dict[str, str]) -> tuple[str | ImageRef, ...]:
    parts = re.split("(" + "|".join(map(re.escape, pictures)) + ")", text)
    return tuple(ImageRef("path", pictures[part]) if part in pictures else part for part in parts if part)
