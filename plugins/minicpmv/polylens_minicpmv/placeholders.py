"""The text that stands for a picture in MiniCPM-V 2.0 and 2.5."""

from __future__ import annotations

from polylens.contracts import SlicedImage
from polylens_minicpmv.tokenization import IMAGE_END, IMAGE_START, SLICE_END, SLICE_START, SLOT


def placeholder(image: SlicedImage) -> str:
    """One ``<image>`` of slots for each crop; the slices follow the overview, row by row, in one ``<slice>``."""
    overview, *slices = [IMAGE_START + SLOT * crop.tokens + IMAGE_END for crop in image.crops]
    if image.grid is None:
        return overview
    columns, rows = image.grid
    lines = ["".join(slices[row * columns : (row + 1) * columns]) for row in range(rows)]
    return overview + SLICE_START + "\n".join(lines) + SLICE_END
