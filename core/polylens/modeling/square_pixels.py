"""Pictures as squares of bytes, as the published image processors make them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from polylens.contracts import SlicedImage
from polylens.modeling.processing import Processing
from polylens.modeling.squares import Size, Window, middle, shortest_edge

LONGEST = 32
"""Longer strips, in squares, are not resized as a whole, of which one square would be kept: that costs gigabytes, and
nothing but rounding differs."""


class SquarePreprocessor:
    """Pads or not, resizes with Pillow's bicubic filter, and cuts the square out.

    Args:
        processing: what becomes of a picture.
    """

    def __init__(self, processing: Processing) -> None:
        self.processing = processing
        self.mean: Sequence[float] = processing.mean
        self.std: Sequence[float] = processing.std

    def pixels(self, image: Image.Image, sliced: SlicedImage) -> list[Tensor]:
        """One uint8 [3, side, side] of an RGB picture."""
        if self.processing.pad:
            image = padded(image, self.processing.background)
        return [tensor_of(self.square(image))]

    def square(self, image: Image.Image) -> Image.Image:
        """The square that the tower sees, out of a picture that has its bars."""
        side, shortest = self.processing.side, self.processing.shortest
        if shortest is None:
            return image.resize((side, side), Image.Resampling.BICUBIC)
        scaled = shortest_edge(image.size, shortest)
        window = middle(scaled, side)
        if max(scaled) <= LONGEST * side:
            return image.resize(scaled, Image.Resampling.BICUBIC).crop(window)
        return image.resize((side, side), Image.Resampling.BICUBIC, box=_in_original(window, scaled, image.size))


def _in_original(window: Window, scaled: Size, size: Size) -> tuple[float, float, float, float]:
    """The window in pixels of the picture before it is resized."""
    x, y = size[0] / scaled[0], size[1] / scaled[1]
    return window[0] * x, window[1] * y, window[2] * x, window[3] * y


def padded(image: Image.Image, background: tuple[int, ...]) -> Image.Image:
    """The picture in the middle of a square, its longer side from edge to edge."""
    if image.width == image.height:
        return image
    side = max(image.size)
    square = Image.new(image.mode, (side, side), background)  # type: ignore[arg-type]
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


def tensor_of(image: Image.Image) -> Tensor:
    """uint8 [3, H, W] of an RGB picture."""
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).contiguous()
