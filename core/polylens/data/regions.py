"""What the visual tokens of a record's pictures show: the picture itself, and the lines of its text."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from polylens.contracts import Cover, ImageRef, Record, Regions, SlicedImage
from polylens.data.ocr.lines import OcrLines
from polylens.errors import InputError

ShownLine = tuple[Sequence[int], Sequence[int], float]
"""Token ids of a line, the visual tokens that show it, and its score."""


@dataclass(frozen=True, slots=True)
class RegionFinder:
    """Finds the visual tokens of OCR lines. Runs in data-loader workers.

    Attributes:
        cover: which visual tokens show a box.
        encode: token ids of a text, without special tokens.
        lines: of every picture; ``None`` if the objective reads none.
    """

    cover: Cover
    encode: Callable[[str], Sequence[int]]
    lines: OcrLines | None = None

    def regions(self, record: Record, images: Sequence[SlicedImage]) -> Regions:
        """Of a row whose pictures are cut as ``images`` says.

        Lines that no visual token shows (cropped away by the family) or that have no token are left out.

        Raises:
            InputError: the OCR files do not know a picture, or know it in another size.
        """
        on_picture: list[bool] = []
        found: list[ShownLine] = []
        for ref, sliced in zip(record.images, images, strict=True):
            found += self._lines(ref, sliced, len(on_picture))
            on_picture += self.cover.on_picture(sliced).tolist()
        return Regions.of_example(on_picture, found)

    def _lines(self, ref: ImageRef, sliced: SlicedImage, start: int) -> list[ShownLine]:
        lines = self.lines.of(ref, sliced.size) if self.lines is not None else ()
        if not lines:
            return []
        tokens = self.cover.tokens(sliced, np.array([line.box for line in lines]))
        made = [
            (self.encode(line.text), (places + start).tolist(), line.score)
            for line, places in zip(lines, tokens, strict=True)
        ]
        return [(ids, places, score) for ids, places, score in made if len(ids) and len(places)]


@dataclass(frozen=True, slots=True)
class PlainTokens:
    """Token ids of a text alone; can be sent to other processes, as its tokenizer can."""

    tokenizer: Callable[..., dict[str, list[int]]]

    def __call__(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]


def picture_label(record: Record) -> int:
    """64 bits that are the same for records with the same pictures."""
    digest = hashlib.blake2b(digest_size=8)
    for ref in record.images:
        value = ref.value if isinstance(ref.value, bytes) else ref.value.encode(errors="surrogatepass")
        digest.update(f"{ref.kind}\0{len(value)}\0".encode() + value)
    return int.from_bytes(digest.digest(), signed=True)


def missing_lines(paths: Sequence[str]) -> InputError:
    """What is said where an objective reads lines and there are none."""
    return InputError(
        "the objective compares lines of text with what shows them, and no file of lines is given: write one with "
        f"'polylens data ocr' for the pictures of {', '.join(paths)} and name it as --ocr, or set the objective's "
        "local_weight to 0"
    )
