"""A small data set of real pictures in a real store, for tests that train."""

from __future__ import annotations

import io
import json
from pathlib import Path

from PIL import Image, ImageDraw

from polylens.data.documents import Document
from polylens.data.store import DocumentWriter

COLOURS = ["red", "green", "blue", "yellow", "purple", "orange", "black", "gray"]


def page(number: int) -> bytes:
    """A white page with a bar of its own colour and length, as PNG."""
    image = Image.new("RGB", (100 + 40 * (number % 3), 140 + 30 * (number % 2)), "white")
    ImageDraw.Draw(image).rectangle([10, 10, 80, 30 + 12 * number], fill=COLOURS[number % len(COLOURS)])
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def write_toy(folder: Path, pages: int = 8) -> tuple[Path, Path]:
    """A store of pages, and two queries for each; every third page also has a text.

    Returns:
        The pairs file and the store.
    """
    with DocumentWriter(folder / "store") as writer:
        for i in range(pages):
            writer.write(Document(f"book.pdf#{i + 1}", page(i), f"chapter {i}" if i % 3 == 0 else ""))
    lines = []
    for i in range(pages):
        other = f"book.pdf#{(i + 3) % pages + 1}"
        for text in (f"{COLOURS[i % 8]} bar", f"where is the {COLOURS[i % 8]} bar of chapter {i}?"):
            line = {"query": {"text": text}, "positives": [f"book.pdf#{i + 1}"], "negatives": [other]}
            lines.append(json.dumps({"id": f"q{len(lines)}", **line}))
    pairs = folder / "pairs.jsonl"
    pairs.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return pairs, folder / "store"


def write_conversations(folder: Path, count: int = 8) -> Path:
    """Conversations about pages, every third one in two turns; one has two pictures, and the last two have none."""
    records = []
    for i in range(count):
        shown = [] if i >= count - 2 else [f"page{i}.png"] + ([f"page{i - 1}.png"] if i == 1 else [])
        turns = ["<image>" * len(shown) + "\nwhat colour is the bar?", f"the bar of chapter {i} is {COLOURS[i % 8]}"]
        turns += ["is it long?", "yes"] if i % 3 == 0 else []
        said = [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(turns)]
        records.append({"id": f"c{i}", "image": shown or None, "conversations": said})
        (folder / f"page{i}.png").write_bytes(page(i))
    path = folder / "talk.json"
    path.write_text(json.dumps(records, indent=1), encoding="utf-8")
    return path
