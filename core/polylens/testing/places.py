"""Checks that visual tokens show what lies in their boxes: rectangles are painted, and what changes is found."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from polylens.contracts import Crop, SlicedImage
from polylens.testing.models import forward
from polylens.testing.results import require
from polylens.testing.slicing import boxes_of_crops
from polylens.testing.subject import Subject, picture

SIZES = ((64, 48), (97, 333), (500, 13), (200, 30), (333, 200), (640, 480), (449, 448), (1000, 341))
RECTANGLES = 4
"""Painted into a picture of each size."""

DARK, BRIGHT = 60, 192
NEAR = 2.0
"""Pixels of a crop by which its pixels may be off: sizes and corners are rounded."""

KERNEL = 4.0
"""Pixels of a crop that a resizing filter reaches to both sides, taken together."""

Rectangle = tuple[int, int, int, int]
"""Left, top, right and bottom in pixels of the picture."""

Places = Callable[[Crop, SlicedImage, np.ndarray], np.ndarray]
"""Where the tokens of a crop lie in its pixels, [tokens, 4], given the crop and the boxes of its tokens."""


def painted_pixels_lie_in_the_boxes(subject: Subject) -> str | None:
    """What is painted into a picture changes the pixels under the tokens whose boxes it meets, and under no others."""
    checkpoint, random, count = subject.checkpoint, np.random.default_rng(0), 0
    for size in SIZES:
        sliced = checkpoint.slicer.slice(size)
        for rectangle in (rectangle_in(sliced, random) for _ in range(RECTANGLES)):
            changed = changed_pixels(checkpoint.preprocessor, sliced, rectangle)
            wrong = next(disagreements(sliced, rectangle, changed), None)
            require(wrong is None, f"{size}: {rectangle} is painted, and {wrong}")
            count += 1
    return f"{count} rectangles"


def changed_pixels(preprocessor: Any, sliced: SlicedImage, rectangle: Rectangle) -> list[np.ndarray]:
    """bool [H, W] per crop: which pixels become more than half as bright as a rectangle that is painted.

    A filter blurs the edge of what is painted, but half of the brightness stays where the edge is.
    """
    dark = Image.new("RGB", sliced.size, (DARK,) * 3)
    painted = dark.copy()
    painted.paste((BRIGHT,) * 3, rectangle)
    before, after = (preprocessor.pixels(image, sliced) for image in (dark, painted))
    pairs = zip(before, after, strict=True)
    return [((b.int() - a.int()) > (BRIGHT - DARK) / 2).all(dim=0).numpy() for a, b in pairs]


def rectangle_in(sliced: SlicedImage, random: np.random.Generator) -> Rectangle:
    """A rectangle anywhere in a picture, not so narrow that a filter leaves less than its full brightness."""
    coarsest = np.max([np.array(sliced.size) / np.array(crop.scaled) for crop in sliced.crops], axis=0)
    (left, right), (top, bottom) = (
        _part(side, int(np.ceil(2 * KERNEL * coarse)), random)
        for side, coarse in zip(sliced.size, coarsest, strict=True)
    )
    return left, top, right, bottom


def _part(side: int, least: int, random: np.random.Generator) -> tuple[int, int]:
    if side <= least:
        return 0, side
    length = int(random.integers(least, max(least + 1, side // 2)))
    start = int(random.integers(0, side - length + 1))
    return start, start + length


def boxes_in_crop(crop: Crop, sliced: SlicedImage, boxes: np.ndarray) -> np.ndarray:
    """``token_boxes`` in pixels of the crop."""
    scale, corner = np.array(crop.scaled) / np.array(sliced.size), np.array(crop.window[:2])
    return boxes * np.tile(scale, 2) - np.tile(corner, 2)


def disagreements(
    sliced: SlicedImage,
    rectangle: Rectangle,
    changed: Sequence[np.ndarray],
    places: Places = boxes_in_crop,
    near: float = NEAR,
) -> Iterator[str]:
    """Every token of which the box says something else than the pixels about what was painted.

    Args:
        changed: what ``changed_pixels`` gives.
        places: where tokens lie in the pixels of a crop.
        near: pixels of a crop by which box and pixels may differ, but at least a quarter of a pixel of the picture:
            at the edge of a picture that is enlarged, filters are not symmetric.
    """
    for number, ((crop, boxes), pixels) in enumerate(zip(boxes_of_crops(sliced), changed, strict=True)):
        reach = np.maximum(np.array(sliced.size) / np.array(crop.scaled), 0.25) * near
        surely, perhaps = _meets(boxes, rectangle, -reach), _meets(boxes, rectangle, reach)
        touched = [_any(pixels, place) for place in places(crop, sliced, boxes)]
        for token in np.flatnonzero((surely & ~np.array(touched)) | (touched & ~perhaps)):
            found = "has changed pixels" if touched[token] else "has none that changed"
            yield f"token {token} of crop {number}, with the box {boxes[token].round(1).tolist()}, {found}"


def _meets(boxes: np.ndarray, rectangle: Rectangle, reach: np.ndarray) -> np.ndarray:
    """Whether boxes and a rectangle that is larger by ``reach`` at every edge have an area in common."""
    low = np.maximum(boxes[:, :2], np.array(rectangle[:2]) - reach)
    high = np.minimum(boxes[:, 2:], np.array(rectangle[2:]) + reach)
    return np.asarray((low < high).all(axis=1))


def _any(pixels: np.ndarray, place: np.ndarray) -> bool:
    left, top, right, bottom = np.maximum(np.round(place), 0).astype(int)
    return bool(pixels[top:bottom, left:right].any())


TOKENS = 4
"""Looked at in each crop."""

PICTURES = ((90, 60), (60, 170), (330, 240))


def tokens_see_their_boxes(subject: Subject) -> str | None:
    """Noise inside of a token's box moves that token more than the others of its crop, and leaves other crops alone.

    With random weights a tower passes on at each place mostly what is there. Tokens of a box that spans their crop, as
    resampled ones, are asked for the second part alone.
    """
    random, count = np.random.default_rng(0), 0
    for size in PICTURES:
        image, sliced = picture(*size), subject.checkpoint.slicer.slice(size)
        before = _visual_tokens(subject, image, sliced)
        for number, (crop, boxes) in enumerate(boxes_of_crops(sliced)):
            for token in _own_places(crop, sliced, boxes, random):
                rectangle = _inside(crop, sliced, boxes[token])
                after = _visual_tokens(subject, _with_noise(image, rectangle), sliced)
                _require_own_change(sliced, (number, token), rectangle, before, after, f"{size}")
                count += 1
    return f"{count} tokens"


def _own_places(crop: Crop, sliced: SlicedImage, boxes: np.ndarray, random: np.random.Generator) -> list[int]:
    """Some tokens whose boxes lie in the picture and have room for a rectangle; of a crop without places the first."""
    inside = ((boxes >= 0) & (boxes <= np.tile(sliced.size, 2))).all(axis=1)
    smallest = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1).min()
    own = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) < 2 * smallest + 1e-6
    roomy = [token for token in np.flatnonzero(inside & own) if _has_room(_inside(crop, sliced, boxes[token]))]
    return [int(token) for token in random.permutation(roomy)[:TOKENS]]


def _inside(crop: Crop, sliced: SlicedImage, box: np.ndarray) -> Rectangle:
    """The part of a box from which no filter reaches out of it."""
    reach = _reach(crop, sliced) + 1
    low, high = np.ceil(box[:2] + reach), np.floor(box[2:] - reach)
    return int(low[0]), int(low[1]), int(high[0]), int(high[1])


def _reach(crop: Crop, sliced: SlicedImage) -> np.ndarray:
    """Pixels of the original picture at which a filter still sees something."""
    return np.maximum(np.array(sliced.size) / np.array(crop.scaled), 1) * KERNEL / 2


def _has_room(rectangle: Rectangle) -> bool:
    return rectangle[0] < rectangle[2] and rectangle[1] < rectangle[3]


def _with_noise(image: Image.Image, rectangle: Rectangle) -> Image.Image:
    changed = image.copy()
    changed.paste(picture(rectangle[2] - rectangle[0], rectangle[3] - rectangle[1], seed=99), rectangle[:2])
    return changed


def _visual_tokens(subject: Subject, image: Image.Image, sliced: SlicedImage) -> tuple[Tensor, ...]:
    """[tokens, D] of each crop."""
    made = forward(subject, subject.batch([subject.example(image, "\n", id="picture")]), ["connector"]).connector
    assert made is not None
    return made.split([crop.tokens for crop in sliced.crops])


def _require_own_change(
    sliced: SlicedImage,
    place: tuple[int, int],
    rectangle: Rectangle,
    before: Sequence[Tensor],
    after: Sequence[Tensor],
    size: str,
) -> None:
    number, token = place
    for other, (crop, boxes) in enumerate(boxes_of_crops(sliced)):
        moved = torch.linalg.vector_norm(after[other] - before[other], dim=1)
        where = f"{size}: noise in {rectangle}, in the box of token {token} of crop {number},"
        if other == number:
            most = int(moved.argmax())
            same = np.abs(boxes[most] - boxes[token]).max() < 1e-3
            require(same, f"{where} moves token {most} most, with the box {boxes[most].round(1).tolist()}")
        elif not _meets(boxes, rectangle, _reach(crop, sliced)).any():
            require(float(moved.max()) == 0, f"{where} moves tokens of crop {other} by {float(moved.max()):.1e}")


CHECKS = (painted_pixels_lie_in_the_boxes, tokens_see_their_boxes)
