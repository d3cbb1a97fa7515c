"""One crop per picture, at its own resolution."""

from __future__ import annotations

import numpy as np
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

from polylens.contracts import Crop, SlicedImage
from polylens.errors import InputError
from polylens_qwen2_5_vl import FACTOR

MAX_RATIO = 200
"""Longer pictures are refused, as transformers does."""


class NativeResolutionSlicer:
    """Resizes a picture to multiples of 28 pixels, within limits on its area.

    Args:
        min_pixels, max_pixels: area of the resized picture.
    """

    def __init__(self, min_pixels: int, max_pixels: int) -> None:
        self.min_pixels = min_pixels
        self.max_pixels = max_pixels

    def slice(self, size: tuple[int, int]) -> SlicedImage:
        """A single crop, the whole picture.

        Raises:
            InputError: one side is more than 200 times the other.
        """
        width, height = size
        if max(size) > MAX_RATIO * min(size):
            raise InputError(
                f"a picture of {width} x {height} pixels is too long: one side is over {MAX_RATIO} times"
                " the other; cut it in parts"
            )
        scaled_height, scaled_width = smart_resize(height, width, FACTOR, self.min_pixels, self.max_pixels)
        columns, rows = scaled_width // FACTOR, scaled_height // FACTOR
        crop = Crop((scaled_width, scaled_height), (0, 0, scaled_width, scaled_height), columns * rows)
        return SlicedImage(size, (crop,), None, token_boxes(size, columns, rows))


def token_boxes(size: tuple[int, int], columns: int, rows: int) -> np.ndarray:
    """float32 [columns * rows, 4]: a regular division of the picture, row by row."""
    x = np.linspace(0, size[0], columns + 1, dtype=np.float32)
    y = np.linspace(0, size[1], rows + 1, dtype=np.float32)
    left, top = np.meshgrid(x[:-1], y[:-1])
    right, bottom = np.meshgrid(x[1:], y[1:])
    return np.stack([left, top, right, bottom], axis=-1).reshape(-1, 4)
