"""Pictures of every format that is read, and some that are not."""

from __future__ import annotations

import base64
import io
import json
import random
import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

from fuzz.mutators import mutate_bytes, several
from fuzz.outcome import require
from fuzz.samples import picture
from PIL import Image

from polylens.contracts import ImageRef
from polylens.data.images import MAX_PIXELS, ImageOpener, decode_image, image_size
from polylens.errors import InputError

MODES = {
    "PNG": ("RGB", "L", "1", "P", "LA", "RGBA", "I;16"),
    "JPEG": ("RGB", "L", "CMYK"),
    "TIFF": ("RGB", "L", "1", "P", "LA", "RGBA", "I;16", "I", "F", "CMYK", "LAB", "YCbCr"),
    "GIF": ("P", "L", "RGB"),
    "WEBP": ("RGB", "RGBA"),
    "BMP": ("RGB", "L", "1", "P", "RGBA"),
    "PPM": ("RGB", "L", "1"),
    "JPEG2000": ("RGB", "L", "RGBA"),
    "AVIF": ("RGB", "RGBA"),
    "TGA": ("RGB",),
    "ICO": ("RGB",),
}


def _good(format: str, mode: str) -> bytes:
    """A picture in a mode that Pillow reaches from RGB in one or two conversions."""
    image = Image.open(io.BytesIO(picture(3)))
    steps = {"I;16": ("L", "I", "I;16"), "I": ("L", "I"), "F": ("L", "F")}.get(mode, (mode,))
    for step in steps:
        image = image.convert(step) if step != "LAB" else Image.frombytes("LAB", image.size, image.tobytes())
    buffer = io.BytesIO()
    image.save(buffer, format)
    return buffer.getvalue()


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_of(width: int, height: int, data: bytes = b"", extra: bytes = b"") -> bytes:
    """A PNG whose header claims a size."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + extra + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def _zeros(size: int) -> bytes:
    """``size`` zero bytes, deflated: about a thousandth of that."""
    packer = zlib.compressobj(9)
    return b"".join([*(packer.compress(bytes(2**20)) for _ in range(size >> 20)), packer.flush()])


def _tiff(width: int, height: int, compression: int, data: bytes, rows: int) -> bytes:
    """A grey TIFF of one strip that claims a size."""
    entries = [(256, width), (257, height), (258, 8), (259, compression), (262, 1), (273, 8), (277, 1), (278, rows)]
    entries.append((279, len(data)))
    directory = struct.pack("<H", len(entries))
    directory += b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries) + bytes(4)
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + directory


BOMBS: tuple[Callable[[], bytes], ...] = (
    lambda: png_of(60_000, 60_000, _zeros(64 << 20)),
    lambda: png_of(2**31 - 1, 2**31 - 1),
    lambda: png_of(9000, 9000, _zeros(256 << 20)),
    lambda: png_of(8, 8, extra=_chunk(b"zTXt", b"Comment\0\0" + _zeros(256 << 20))),
    lambda: png_of(8, 8, extra=_chunk(b"iCCP", b"Profile\0\0" + _zeros(256 << 20))),
    lambda: png_of(8, 8, _zeros(256 << 20)),
    lambda: b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0, 0, 0) + b";",
    lambda: (
        b"GIF89a"
        + struct.pack("<HHBBB", 8, 8, 0, 0, 0)
        + b","
        + struct.pack("<HHHHB", 0, 0, 65535, 65535, 0)
        + b"\2\0;"
    ),
    lambda: b"RIFF\x16\0\0\0WEBPVP8L\x0a\0\0\0\x2f" + struct.pack("<I", 0x0FFFFFFF) + bytes(5),
    lambda: b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0" + bytes(4) + b"\xff" * 6,
    lambda: b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 2**31 - 1, -(2**31), 1, 24, 0, 0, 0, 0, 0, 0),
    lambda: b"P6 99999 99999 255\n" + bytes(100),
    lambda: b"P6 999999999999999999999 1 255\n" + bytes(100),
    lambda: _tiff(60_000, 60_000, 8, _zeros(64 << 20), 60_000),
    lambda: _tiff(9000, 9000, 8, _zeros(256 << 20), 9000),
    lambda: _tiff(2**32 - 1, 2**32 - 1, 1, bytes(8), 2**32 - 1),
)
"""Files whose pixels, or whose text, are much larger than they are."""


class Picture:
    """A picture file below the image root, and the same bytes inside a record."""

    def __init__(self, base: Path) -> None:
        Image.init()
        self.good = [
            (format, mode, _good(format, mode))
            for format, modes in MODES.items()
            if format in Image.SAVE
            for mode in modes
        ]

    def write(self, rng: random.Random, folder: Path) -> None:
        format, mode, data = rng.choice(self.good)
        if rng.random() < 0.02:
            format, data = "bomb", rng.choice(BOMBS)()
        elif rng.random() < 0.95:
            data = several(rng, mutate_bytes, data, 4)
        (folder / "picture").write_bytes(data)
        (folder / "format.txt").write_text(f"{format} {mode}")
        query = {"query": {"image": "picture"}, "positives": ["x"]}
        (folder / "pairs.jsonl").write_text(json.dumps(query) + "\n")
        page = {"_id": "p", "image": base64.b64encode(data).decode()}
        (folder / "corpus.jsonl").write_text(json.dumps(page) + "\n")

    def read(self, folder: Path) -> int:
        data = (folder / "picture").read_bytes()
        size = _size(data)
        image = ImageOpener(folder).open(ImageRef("path", "picture"), "query")
        require(size == image.size, f"the header says {size}, the picture has {image.size}")
        require(image.mode == "RGB" and 0 < image.width * image.height <= MAX_PIXELS, f"{image.mode} {image.size}")
        again = decode_image(data, "the same bytes")
        require(again.tobytes() == image.tobytes(), "a file and its bytes give different pictures")
        return 0

    def commands(self, folder: Path) -> Sequence[Sequence[str]]:
        corpus = str(folder / "corpus.jsonl")
        return [
            ["data", "validate", str(folder / "pairs.jsonl")],
            ["data", "validate", corpus],
            ["data", "show", corpus],
            ["data", "stats", corpus],
            ["data", "show", corpus, "--id", "p", "--output", str(folder / "out.png")],
        ]


def _size(data: bytes) -> tuple[int, int] | None:
    try:
        return image_size(data, "the header")
    except InputError:
        return None
