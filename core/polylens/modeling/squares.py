"""Every picture becomes one square, and a place for each of its visual tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from polylens.contracts import Crop, SlicedImage
from polylens.errors import InputError
from polylens.modeling.processing import Processing

Size = tuple[int, int]
Window = tuple[int, int, int, int]
"""Left, top, right, bottom."""

FULL = ("cls_patch", "full")
"""Strategies that keep the first token."""

PATCH = ("patch", "default")
"""Strategies that drop it."""


class SquareSlicer:
    """One crop for a picture.

    Args:
        processing: what becomes of the picture.
        patch: side of the tower's patches in pixels of the square. Pixels at its right and lower edge that are too few
            for another patch are not seen.
        class_token: whether the tower puts one before the patches.
        strategy: whether the first token is dropped: the class token, or in a tower without one the first patch.
        queries: visual tokens of a resampler, which have no place.
        towers: how many towers give a token for each patch.
    """

    def __init__(
        self,
        processing: Processing,
        patch: int,
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
        self.processing, self.patch, self.queries, self.towers = processing, patch, queries, towers
        self.grid = processing.side // patch
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
            return padded_geometry(size, side, shortest or side)
        if shortest is None:
            return (side, side), (0, 0, side, side)
        scaled = shortest_edge(size, shortest)
        return scaled, middle(scaled, side)

    def _square(self, size: Size, scaled: Size, window: Window) -> tuple[float, ...]:
        """Left, top, right, bottom of the square in pixels of the picture; bars lie outside of it."""
        if not self.processing.pad:
            return tuple(edge * size[axis % 2] / scaled[axis % 2] for axis, edge in enumerate(window))
        longest, length = max(size), self.processing.shortest or self.processing.side
        first = (length - self.processing.side) // 2
        edges = [place * longest / length for place in (first, first + self.processing.side)]
        left, top = ((longest - side) // 2 for side in size)
        return edges[0] - left, edges[0] - top, edges[1] - left, edges[1] - top

    def _boxes(self, size: Size, scaled: Size, window: Window) -> np.ndarray:
        """float32 [V, 4] in pixels of the picture; where there are bars, boxes reach out of it."""
        left, top, right, bottom = self._square(size, scaled, window)
        seen = self.grid * self.patch / self.processing.side
        square = left, top, left + (right - left) * seen, top + (bottom - top) * seen
        cells = grid_boxes(square, self.grid, self.grid)
        whole = np.array([square])
        if self.queries is not None:
            return np.repeat(whole, self.queries, axis=0).astype(np.float32)
        tokens = np.concatenate([whole, cells]) if self.class_token else cells
        return np.repeat(tokens[int(self.dropped) :], self.towers, axis=0).astype(np.float32)


def grid_boxes(area: Sequence[float], columns: int, rows: int) -> np.ndarray:
    """float64 [rows * columns, 4]: the cells of a grid over an area, row by row.

    >>> grid_boxes((0, 0, 4, 2), 2, 1).tolist()
    [[0.0, 0.0, 2.0, 2.0], [2.0, 0.0, 4.0, 2.0]]
    """
    x, y = np.linspace(area[0], area[2], columns + 1), np.linspace(area[1], area[3], rows + 1)
    left, top = np.meshgrid(x[:-1], y[:-1])
    right, bottom = np.meshgrid(x[1:], y[1:])
    return np.stack([left, top, right, bottom], axis=-1).reshape(-1, 4)


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


def padded_geometry(size: Size, side: int, length: int) -> tuple[Size, Window]:
    """Where the picture lies in the square of ``length``, of which the middle is cut out."""
    longest, inset = max(size), (length - side) // 2
    scaled = tuple(max(1, round(length * part / longest)) for part in size)
    left, top = (inset - round(((longest - part) // 2) * length / longest) for part in size)
    return (scaled[0], scaled[1]), (left, top, left + side, top + side)
