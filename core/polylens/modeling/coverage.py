"""Which visual tokens show a part of a picture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from polylens.contracts import SlicedImage
from polylens.errors import InputError

__all__ = ["TokenCover"]

_FINEST = 2.0
"""Tokens count as equally fine up to this ratio of their areas."""


@dataclass(frozen=True, slots=True)
class TokenCover:
    """Finds the visual tokens of boxes through ``SlicedImage.token_boxes``.

    A token shows a box if their overlap is at least ``minimum`` of the smaller one of the two. Where tokens of several
    sizes show it (those of an overview and of slices), the finest count. Resampled tokens carry the box of their
    slice, so a line of text belongs to all tokens of the slices that hold some of it.

    Attributes:
        minimum: share, above 0 and at most 1. REMGCL has 0.05.
        grid: cells of a side of the grid that REMGCL lays over the padded picture, whatever grid the tower has; the
            numbers of its cells are taken for numbers of tokens. ``None`` goes by where the tokens lie.
    """

    minimum: float = 0.05
    grid: int | None = None

    def tokens(self, sliced: SlicedImage, boxes: np.ndarray) -> list[np.ndarray]:
        """For each box the numbers of the tokens that show it, ascending.

        Args:
            boxes: [K, 4], left, top, right, bottom in pixels of the picture.

        Raises:
            InputError: the tower has fewer tokens than ``grid`` has cells, or the picture is cut into several crops.
        """
        if self.grid is not None:
            return self._cells(sliced, boxes)
        areas = _areas(sliced.token_boxes)
        shares = _overlaps(boxes, sliced.token_boxes) / np.minimum(areas, _areas(boxes)[:, None])
        return [_finest(np.flatnonzero(row >= self.minimum), areas) for row in shares]

    def on_picture(self, sliced: SlicedImage) -> np.ndarray:
        """bool [V], false where less than ``minimum`` of a token lies on the picture."""
        width, height = sliced.size
        overlap = _overlaps(np.array([[0.0, 0.0, width, height]]), sliced.token_boxes)[0]
        return overlap >= self.minimum * _areas(sliced.token_boxes)

    def _cells(self, sliced: SlicedImage, boxes: np.ndarray) -> list[np.ndarray]:
        """Numbers of the cells of ``grid`` of which at least ``minimum`` is covered."""
        assert self.grid is not None
        if len(sliced.crops) != 1 or sliced.visual_tokens < self.grid**2:
            raise InputError(
                f"a picture of {sliced.size[0]} x {sliced.size[1]} gives {sliced.visual_tokens} visual tokens in "
                f"{len(sliced.crops)} crops, and a grid of {self.grid} x {self.grid} does not fit: it needs one crop "
                f"of at least {self.grid**2} tokens; leave out compat"
            )
        cells = _grid(sliced.token_boxes, self.grid)
        shares = _overlaps(boxes, cells) / _areas(cells)
        return [np.flatnonzero(row >= self.minimum) for row in shares]


def _grid(token_boxes: np.ndarray, cells: int) -> np.ndarray:
    """[cells * cells, 4], a grid over all that the tokens show, row by row."""
    left, top = token_boxes[:, :2].min(axis=0).astype(np.float64)
    right, bottom = token_boxes[:, 2:].max(axis=0).astype(np.float64)
    columns = left + (right - left) / cells * np.arange(cells + 1)
    rows = top + (bottom - top) / cells * np.arange(cells + 1)
    x, y = np.meshgrid(np.arange(cells), np.arange(cells))
    places = x.flatten(), y.flatten()
    return np.stack([columns[places[0]], rows[places[1]], columns[places[0] + 1], rows[places[1] + 1]], axis=1)


def _overlaps(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """float64 [K, V], areas."""
    boxes, others = boxes.astype(np.float64)[:, None], others.astype(np.float64)[None]
    sides = np.minimum(boxes[..., 2:], others[..., 2:]) - np.maximum(boxes[..., :2], others[..., :2])
    return sides.clip(min=0).prod(axis=-1)


def _areas(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2:].astype(np.float64) - boxes[:, :2]).prod(axis=1)


def _finest(tokens: np.ndarray, areas: np.ndarray) -> np.ndarray:
    if not len(tokens):
        return tokens
    return tokens[areas[tokens] <= _FINEST * areas[tokens].min()]
