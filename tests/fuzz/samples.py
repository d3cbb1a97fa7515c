"""Good data that inputs are mutated from: pictures, and a store of documents."""

from __future__ import annotations

import base64
import io
from pathlib import Path

from PIL import Image, ImageDraw

from polylens.data.store import Document, DocumentWriter


def picture(number: int = 0, format: str = "PNG", size: tuple[int, int] = (24, 18), mode: str = "RGB") -> bytes:
    """A small picture that no other number has."""
    image = Image.new("RGB", size, "white")
    ImageDraw.Draw(image).rectangle([2, 2, 5 + number % 12, 9], fill=(40 * number % 256, 80, 160))
    buffer = io.BytesIO()
    image.convert(mode).save(buffer, format)
    return buffer.getvalue()


def encoded(number: int = 0) -> str:
    """A picture in base64."""
    return base64.b64encode(picture(number)).decode()


DOCUMENTS = (
    *(Document(f"{file}.pdf#{page}", picture(page)) for file in "abcdef" for page in (1, 2)),
    Document("note", None, "only text: Größe 泵"),
    Document("both#1", picture(9), "a page with text"),
)


def write_store(folder: Path, documents_per_shard: int = 6) -> Path:
    """A store of ``DOCUMENTS`` in several shards."""
    with DocumentWriter(folder, documents_per_shard=documents_per_shard) as writer:
        for document in DOCUMENTS:
            writer.write(document)
    return folder
