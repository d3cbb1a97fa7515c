"""Every picture becomes one square, and a place for each of its visual tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from polylens.contracts import Crop, SlicedImage
from polylens.errors import InputError
from polylens_tinyllava.options import TinyLlavaOptions
from polylens_tinyllava.processing import Processing, processing_for

Size = tuple[int, int]
Window = tuple[int, int, int, int]
"""Left, top, right, bottom."""

FULL = ("cls_patch", "full")
"""Strategies that keep the first token."""

PATCH = ("patch", "default")
"""Strategies that drop it."""

RESAMPLED = ("resampler", "qformer")


class SquareSlicer:
    """One crop for a picture.

    Args:
        processing: what becomes of the picture.
        grid: patches along each side of the square.
        class_token: whether the tower puts one before the patches.
        strategy: whether the first token is dropped: the class token, or in a tower without one the first patch.
        queries: visual tokens of a resampler, which have no place.
        towers: how many towers give a token for each patch.
    """

    def __init__(
        self,
        processing: Processing,
        grid: int,
        *,
        class_token: bool,
        strategy: str = "patch",
        queries: int | None = None,
        towers: int = 1,
    ) -> None:
        if strategy not in (*FULL, *PATCH):
            raise InputError(
                f"config.json: /vision_feature_select_strategy is {strategy!r}; it may be {', '.join((*PATCH, *FULL))}"
            )
        self.processing, self.grid, self.queries, self.towers = processing, grid, queries, towers
        self.class_token, self.dropped = class_token, strategy in PATCH

    def slice(self, size: Size) -> SlicedImage:
        """The picture as a square.

        Raises:
            InputError: a side of the picture is not positive.
        """
        if min(size) < 1:
            raise InputError(f"a picture of {size[0]} x {size[1]} pixels is empty; both sides must be positive")
        scaled, window = self._geometry(size)
        boxes = self._boxes(size, scaled, window)
        return SlicedImage(size, (Crop(scaled, window, len(boxes)),), None, boxes)

    def _geometry(self, size: Size) -> tuple[Size, Window]:
        """The size of the picture after resizing, and the square that is cut out of it."""
        side, shortest = self.processing.side, self.processing.shortest
        if self.processing.pad:
            return _padded(size, side, shortest or side)
        if shortest is None:
            return (side, side), (0, 0, side, side)
        scaled = shortest_edge(size, shortest)
        return scaled, middle(scaled, side)

    def _boxes(self, size: Size, scaled: Size, window: Window) -> np.ndarray:
        """float32 [V, 4] in pixels of the picture; bars beside it belong to no token's box."""
        x, y = (
            np.linspace(window[axis], window[axis + 2], self.grid + 1) * size[axis] / scaled[axis] for axis in (0, 1)
        )
        x, y = np.clip(x, 0, size[0]), np.clip(y, 0, size[1])
        left, top = np.meshgrid(x[:-1], y[:-1])
        right, bottom = np.meshgrid(x[1:], y[1:])
        cells = np.stack([left, top, right, bottom], axis=-1).reshape(-1, 4)
        whole = np.array([[x[0], y[0], x[-1], y[-1]]])
        if self.queries is not None:
            return np.repeat(whole, self.queries, axis=0).astype(np.float32)
        seen = np.concatenate([whole, cells]) if self.class_token else cells
        return np.repeat(seen[int(self.dropped) :], self.towers, axis=0).astype(np.float32)


def shortest_edge(size: Size, length: int) -> Size:
    """The size whose shorter side is ``length``, as transformers' image processors round it.

    >>> shortest_edge((320, 180), 336)
    (597, 336)
    """
    width, height = size
    if width <= height:
        return length, max(1, int(length * height / width))
    return max(1, int(length * width / height)), length


def middle(scaled: Size, side: int) -> Window:
    """The square of ``side`` in the middle, rounded as transformers' image processors do; it may reach outside."""
    left, top = (scaled[0] - side) // 2, (scaled[1] - side) // 2
    return left, top, left + side, top + side


def _padded(size: Size, side: int, length: int) -> tuple[Size, Window]:
    """Where the picture lies in the square of ``length``, of which the middle is cut out."""
    longest, inset = max(size), (length - side) // 2
    scaled = tuple(max(1, round(length * part / longest)) for part in size)
    left, top = (inset - round(((longest - part) // 2) * length / longest) for part in size)
    return (scaled[0], scaled[1]), (left, top, left + side, top + side)


def slicer_for(config: Mapping[str, Any], options: TinyLlavaOptions) -> SquareSlicer:
    """The slicer of a checkpoint of any layout."""
    from polylens_tinyllava.configuration import MOF, read_config
    from polylens_tinyllava.connectors import query_count

    read, processing = read_config(config), processing_for(config, options)
    vision: Any = read.vision()
    return SquareSlicer(
        processing,
        processing.side // vision.patch_size,
        class_token=vision.model_type != "siglip_vision_model",
        strategy=read.vision_feature_select_strategy,
        queries=query_count(read) if getattr(read, "connector_type", "") in RESAMPLED else None,  # type: ignore[arg-type]
        towers=2 if read.tower == MOF else 1,
    )
