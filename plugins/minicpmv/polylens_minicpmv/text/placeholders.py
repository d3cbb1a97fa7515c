"""The text that stands for a picture: overview first, then the slices, row by row."""

from __future__ import annotations

from polylens.contracts import SlicedImage
from polylens_minicpmv.text.tokenization import (
    ID_END,
    ID_START,
    IMAGE_END,
    IMAGE_START,
    SLICE_END,
    SLICE_START,
)


def wrapped(image: SlicedImage, slot: str) -> str:
    """Versions 2.0 and 2.5: one ``<image>`` of slots for each crop, the slices in one ``<slice>``."""
    overview, *slices = [IMAGE_START + slot * crop.tokens + IMAGE_END for crop in image.crops]
    return overview + (SLICE_START + _rows(slices, image) + SLICE_END if slices else "")


def bare(image: SlicedImage, slot: str) -> str:
    """Version 2.6 and later: the overview in ``<image>``, each slice in a ``<slice>`` of its own."""
    first, *others = image.crops
    slices = [SLICE_START + slot * crop.tokens + SLICE_END for crop in others]
    return IMAGE_START + slot * first.tokens + IMAGE_END + _rows(slices, image)


def numbered(number: int) -> str:
    """What version 2.6 and later ones write before the picture with that number, which counts from 0."""
    return f"{ID_START}{number}{ID_END}"


def _rows(slices: list[str], image: SlicedImage) -> str:
    if image.grid is None:
        return ""
    columns, rows = image.grid
    return "\n".join("".join(slices[row * columns : (row + 1) * columns]) for row in range(rows))
