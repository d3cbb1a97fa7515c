"""Checks of the slicer and the preprocessor."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from polylens.contracts import Crop, SlicedImage
from polylens.testing.results import require
from polylens.testing.subject import Subject, picture

SIDES = (1, 2, 13, 27, 28, 29, 55, 100, 223, 336, 447, 448, 449, 700, 1000, 1654, 2339)
EXTREMES = ((1, 100), (100, 1), (4000, 300), (300, 4000), (7, 333), (5000, 5000))
RATIO = 100
"""A picture whose sides differ by more may be refused with ``InputError``."""
CLOSE = 1.0
"""Boxes may miss their place by so many pixels of the original picture: slicers round."""


def sizes() -> Iterator[tuple[int, int]]:
    """A deterministic sweep over widths and heights, one pixel and long strips included."""
    for i, width in enumerate(SIDES):
        for height in SIDES[i % 3 :: 3]:
            if max(width, height) <= RATIO * min(width, height):
                yield width, height
    yield from EXTREMES


def slices_follow_from_the_size(subject: Subject) -> str | None:
    """Slicing the same size twice gives the same crops, and ``visual_tokens`` is the number of ``token_boxes``."""
    slicer, count = subject.checkpoint.slicer, 0
    for size in sizes():
        first, second = slicer.slice(size), slicer.slice(size)
        require(first.size == size, f"{size}: SlicedImage.size is {first.size}")
        require(first.crops == second.crops, f"{size}: slicing twice gives different crops")
        require(first.crops, f"{size}: no crop")
        require(all(crop.tokens > 0 for crop in first.crops), f"{size}: a crop without tokens")
        require(all(min(crop.size) > 0 for crop in first.crops), f"{size}: an empty crop")
        boxes = first.token_boxes
        wanted = (first.visual_tokens, 4)
        require(boxes.shape == wanted, f"{size}: token_boxes are {boxes.shape}, and the crops have {wanted} of them")
        require(boxes.dtype == np.float32, f"{size}: token_boxes are {boxes.dtype}, not float32")
        count += 1
    return f"{count} sizes"


def windows_cover_the_picture(subject: Subject) -> str | None:
    """The windows that are cut from one resized picture leave no pixel of it out."""
    for size in sizes():
        sliced = subject.checkpoint.slicer.slice(size)
        for scaled in {crop.scaled for crop in sliced.crops}:
            windows = np.array([crop.window for crop in sliced.crops if crop.scaled == scaled], dtype=np.float64)
            missing = uncovered(scaled, windows)
            require(missing == 0, f"{size}: {missing:.2%} of the picture, resized to {scaled}, lies in no crop")
    return None


def token_boxes_cover_the_picture(subject: Subject) -> str | None:
    """Boxes are not turned inside out, and together cover all of the picture that is in the crops.

    A strip narrower than a token at the right or lower edge of a crop may be in none: towers leave it out.
    """
    for size in sizes():
        sliced = subject.checkpoint.slicer.slice(size)
        low, high = sliced.token_boxes[:, :2], sliced.token_boxes[:, 2:]
        require((low <= high).all(), f"{size}: a box has its right or bottom edge before its left or top one")
        boxes = [_to_the_edge(boxes, in_original(crop, size)) for crop, boxes in boxes_of_crops(sliced)]
        missing = uncovered(size, np.concatenate(boxes))
        require(missing == 0, f"{size}: {missing:.2%} of the picture lies in no token's box")
    return None


def token_boxes_lie_in_their_crops(subject: Subject) -> str | None:
    """The boxes of a crop's tokens lie in that crop's window and reach its edges, in pixels of the original picture.

    Where a window reaches out of the picture, boxes may: they are not cut off at its edge. A token may be missing at
    the right and at the lower edge, and where nothing of the picture is.
    """
    for size in sizes():
        for number, (crop, boxes) in enumerate(boxes_of_crops(subject.checkpoint.slicer.slice(size))):
            window, hull = in_original(crop, size), _hull(boxes)
            inner = np.clip(window, 0, np.tile(size, 2))
            inner[2:] -= _largest(boxes)
            most, least = _outwards(hull - window), _outwards(inner - hull)
            close = _tolerance(crop, size)
            away = float(np.maximum(most, least).max())
            require(
                (np.maximum(most, least) <= close).all(),
                f"{size}: the boxes of crop {number} span {hull.tolist()}, {away:.1f} pixels off its window",
            )
    return None


def boxes_of_crops(sliced: SlicedImage) -> Iterator[tuple[Crop, np.ndarray]]:
    """Each crop with the boxes of its tokens, float64 [tokens, 4]."""
    ends = np.cumsum([crop.tokens for crop in sliced.crops])[:-1]
    return zip(sliced.crops, np.split(sliced.token_boxes.astype(np.float64), ends), strict=True)


def in_original(crop: Crop, size: tuple[int, int]) -> np.ndarray:
    """The window of a crop in pixels of the original picture, also where it reaches out of it."""
    return np.array(crop.window) * np.tile(np.array(size) / np.array(crop.scaled), 2)


def _tolerance(crop: Crop, size: tuple[int, int]) -> np.ndarray:
    """Pixels of the original by which the edges of boxes may miss those of the window.

    The size after resizing is rounded: over padding, far out of the picture, that is many pixels.
    """
    scaled = np.tile(crop.scaled, 2).astype(np.float64)
    scale, window = np.tile(size, 2) / scaled, np.array(crop.window)
    outside = np.abs(window - np.clip(window, 0, scaled))
    return np.maximum(CLOSE, scale) + outside * scale * 0.5 / np.maximum(scaled - 0.5, 0.5)


def _hull(boxes: np.ndarray) -> np.ndarray:
    return np.concatenate([boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)])


def _largest(boxes: np.ndarray) -> np.ndarray:
    """Width and height of the largest box but one that spans all others."""
    whole = (boxes == _hull(boxes)).all(axis=1)
    parts = boxes[~whole]
    return (parts[:, 2:] - parts[:, :2]).max(axis=0) if len(parts) else np.zeros(2)


def _to_the_edge(boxes: np.ndarray, window: np.ndarray) -> np.ndarray:
    """The boxes, with those at the right and the lower edge drawn out to that of the window if a token fits not."""
    drawn, short = boxes.copy(), window[2:] - boxes[:, 2:].max(axis=0)
    for axis in np.flatnonzero((short > 0) & (short < _largest(boxes))):
        drawn[boxes[:, 2 + axis] == boxes[:, 2 + axis].max(), 2 + axis] = window[2 + axis]
    return drawn


def _outwards(difference: np.ndarray) -> np.ndarray:
    """By how much a box is larger than another, given the difference of their edges."""
    return difference * np.array([-1, -1, 1, 1])


def pixels_match_the_geometry(subject: Subject) -> str | None:
    """The preprocessor gives one uint8 [3, H, W] per crop, of the size that the slicer promised."""
    import torch

    checkpoint = subject.checkpoint
    for size in ((1, 1), (64, 48), (200, 30), (33, 300), (640, 480)):
        sliced = checkpoint.slicer.slice(size)
        pixels = checkpoint.preprocessor.pixels(picture(*size), sliced)
        require(len(pixels) == len(sliced.crops), f"{size}: {len(pixels)} arrays for {len(sliced.crops)} crops")
        for crop, array in zip(sliced.crops, pixels, strict=True):
            shape = (3, crop.size[1], crop.size[0])
            require(array.dtype == torch.uint8, f"{size}: pixels are {array.dtype}, not uint8")
            require(tuple(array.shape) == shape, f"{size}: pixels are {tuple(array.shape)}, not {shape}")
    return None


def pixels_keep_their_colour(subject: Subject) -> str | None:
    """A picture of one colour stays that colour, red first: values from 0 to 255, not normalised."""
    from PIL import Image

    checkpoint, colour = subject.checkpoint, (200, 120, 10)
    sliced = checkpoint.slicer.slice((300, 180))
    pixels = checkpoint.preprocessor.pixels(Image.new("RGB", (300, 180), colour), sliced)
    for number, (crop, array) in enumerate(zip(sliced.crops, pixels, strict=True)):
        x, y = (
            (max(a, 0) + min(b, end)) // 2 - a
            for a, b, end in zip(crop.window, crop.window[2:], crop.scaled, strict=False)
        )
        found = tuple(array[:, y, x].tolist())
        require(found == colour, f"crop {number} of a picture in {colour} has {found} in the middle")
    return None


def uncovered(size: tuple[int, int], boxes: np.ndarray) -> float:
    """The share of the rectangle (0, 0, *size) that lies in none of the boxes [n, 4].

    >>> uncovered((4, 2), np.array([[0, 0, 2, 2], [2, 0, 3, 2]]))
    0.25
    """
    columns, rows = (_edges(boxes[:, axis::2], size[axis]) for axis in (0, 1))
    covered = np.zeros((len(rows) - 1, len(columns) - 1), dtype=bool)
    x, y = (columns[1:] + columns[:-1]) / 2, (rows[1:] + rows[:-1]) / 2
    for left, top, right, bottom in boxes:
        covered |= ((top <= y) & (y <= bottom))[:, None] & ((left <= x) & (x <= right))[None]
    areas = np.diff(rows)[:, None] * np.diff(columns)[None]
    return float(areas[~covered].sum() / (size[0] * size[1]))


def _edges(values: np.ndarray, end: int) -> np.ndarray:
    """Distinct edges from 0 to ``end``; those that only rounding sets apart are one."""
    edges = np.unique(np.clip(np.append(values.ravel(), [0, end]), 0, end))
    kept = edges[np.append(True, np.diff(edges) > 1e-4 * end)]
    kept[-1] = end
    return kept


CHECKS = (
    slices_follow_from_the_size,
    windows_cover_the_picture,
    token_boxes_cover_the_picture,
    token_boxes_lie_in_their_crops,
    pixels_match_the_geometry,
    pixels_keep_their_colour,
)
