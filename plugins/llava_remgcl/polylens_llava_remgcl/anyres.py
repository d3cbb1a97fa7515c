"""Pictures of LLaVA 1.6: one of the whole, and tiles in full resolution (Liu et al. 2024, "LLaVA-NeXT").

The picture is resized to fit into the best of some resolutions, black bars fill that up, and it is cut into squares as
the tower takes them. ``flat`` puts the tokens of all crops one after the other; ``spatial`` those of the tiles line by
line across tiles; ``spatial_unpad`` leaves out lines and columns of bars, and ends each line with a token of its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from polylens.contracts import Crop, SlicedImage
from polylens.errors import InputError
from polylens.modeling.squares import Size, grid_boxes

MERGES = ("flat", "spatial", "spatial_unpad")


@dataclass(frozen=True, slots=True)
class Anyres:
    """How pictures are cut.

    Attributes:
        side: of a crop in pixels.
        grid: visual tokens along each side of a crop.
        resolutions: width and height of the canvases that tiles may be cut from.
        merge: of ``MERGES``.
    """

    side: int
    grid: int
    resolutions: tuple[Size, ...]
    merge: str

    def tiling(self, size: Size) -> Tiling:
        """What becomes of a picture of that size.

        Raises:
            InputError: a side of the picture is not positive.
        """
        if min(size) < 1:
            raise InputError(f"a picture of {size[0]} x {size[1]} pixels is empty; both sides must be positive")
        return Tiling(self, size, best_resolution(size, self.resolutions))

    def slice(self, size: Size) -> SlicedImage:
        """The whole picture, then its tiles."""
        return self.tiling(size).sliced()


@dataclass(frozen=True, slots=True)
class Tiling:
    """A picture on its canvas.

    Attributes:
        size: of the picture.
        canvas: width and height that is cut into tiles.
    """

    cut: Anyres
    size: Size
    canvas: Size

    @property
    def columns(self) -> int:
        return self.canvas[0] // self.cut.side

    @property
    def rows(self) -> int:
        return self.canvas[1] // self.cut.side

    @property
    def crops(self) -> int:
        """The whole picture and its tiles."""
        return 1 + self.columns * self.rows

    @property
    def scaled(self) -> Size:
        """The picture as it lies on the canvas; its longer side, as it were, is exact."""
        by = [whole / part for whole, part in zip(self.canvas, self.size, strict=True)]
        if by[0] < by[1]:
            return self.canvas[0], min(math.ceil(self.size[1] * by[0]), self.canvas[1])
        return min(math.ceil(self.size[0] * by[1]), self.canvas[0]), self.canvas[1]

    @property
    def corner(self) -> Size:
        """Left and upper bar."""
        scaled = self.scaled
        return (self.canvas[0] - scaled[0]) // 2, (self.canvas[1] - scaled[1]) // 2

    def sliced(self) -> SlicedImage:
        order = self.order()
        per_crop = self.cut.grid**2
        owner = np.minimum(order // per_crop, self.crops - 1)  # the end of a line is counted to the last tile
        tokens = np.bincount(owner, minlength=self.crops)
        side, (left, top) = self.cut.side, self.corner
        crops = [Crop((side, side), (0, 0, side, side), int(tokens[0]))]
        for tile in range(self.crops - 1):
            x, y = tile % self.columns * side - left, tile // self.columns * side - top
            crops.append(Crop(self.scaled, (x, y, x + side, y + side), int(tokens[1 + tile])))
        return SlicedImage(self.size, tuple(crops), (self.columns, self.rows), self._boxes(order))

    def order(self) -> np.ndarray:
        """int64 [V]: for each token of the sequence its place among the tokens of all crops, one crop after the other.

        The place behind all of them is the end of a line.
        """
        grid, count = self.cut.grid, self.crops * self.cut.grid**2
        if self.cut.merge == "flat":
            return np.arange(count)
        whole, tiles = np.split(np.arange(count), [grid**2])
        lines = tiles.reshape(self.rows, self.columns, grid, grid).swapaxes(1, 2).reshape(self.rows * grid, -1)
        if self.cut.merge == "spatial_unpad":
            lines = lines[self._unpadded()]
            lines = np.concatenate([lines, np.full((len(lines), 1), count)], axis=1)
        return np.concatenate([whole, lines.reshape(-1)])

    def _unpadded(self) -> tuple[slice, slice]:
        """Lines and columns of tokens that are left, rounded as the original does."""
        width, height = self.columns * self.cut.grid, self.rows * self.cut.grid
        if self.size[0] / self.size[1] > width / height:
            bar = (height - int(self.size[1] * (width / self.size[0]))) // 2
            return slice(bar, height - bar), slice(0, width)
        bar = (width - int(self.size[0] * (height / self.size[1]))) // 2
        return slice(0, height), slice(bar, width - bar)

    def _boxes(self, order: np.ndarray) -> np.ndarray:
        """float32 [V, 4] in pixels of the picture; the end of a line has the box of the line.

        Of a picture that is narrower than a token on its canvas, the original keeps the ends of lines alone: they have
        the box of the picture.
        """
        grid = self.cut.grid
        boxes = [grid_boxes((0, 0, *self.size), grid, grid)]
        scale = np.tile(np.array(self.size) / np.array(self.scaled), 2)
        side, corner = self.cut.side, np.tile(self.corner, 2)
        for tile in range(self.crops - 1):
            x, y = tile % self.columns * side, tile // self.columns * side
            area = (np.array([x, y, x + side, y + side]) - corner) * scale
            boxes.append(grid_boxes(area.tolist(), grid, grid))
        places = np.concatenate([*boxes, np.zeros((1, 4))])[order]
        ends = np.flatnonzero(order == self.crops * grid**2)
        for start, end in zip([grid**2, *(ends[:-1] + 1)], ends, strict=False):
            line = places[start:end] if start < end else np.array([[0, 0, *self.size]])
            places[end] = [*line[:, :2].min(axis=0), *line[:, 2:].max(axis=0)]
        return places.astype(np.float32)


def best_resolution(size: Size, resolutions: Sequence[Size]) -> Size:
    """The canvas that keeps most pixels of the picture, and of those the one with the least left over.

    >>> best_resolution((300, 200), [(336, 672), (672, 336), (672, 672)])
    (672, 336)
    """

    def key(canvas: Size) -> tuple[int, int]:
        scale = min(canvas[0] / size[0], canvas[1] / size[1])
        kept = min(int(size[0] * scale) * int(size[1] * scale), size[0] * size[1])
        return kept, -(canvas[0] * canvas[1] - kept)

    return max(resolutions, key=key)


def anyres_of(config: Mapping[str, Any], side: int, grid: int) -> Anyres:
    """The way that ``config.json`` says.

    Raises:
        InputError: it says nothing, or something that does not fit the tower.
    """
    merge = str(config.get("mm_patch_merge_type") or "flat")
    if merge not in MERGES:
        raise InputError(f"config.json: /mm_patch_merge_type is {merge!r}; it may be {', '.join(MERGES)}")
    said = config.get("image_grid_pinpoints")
    if not isinstance(said, list) or not said or not all(_fits(pair, side) for pair in said):
        raise InputError(
            f"config.json: /image_grid_pinpoints is {said!r}; for the ratio 'anyres' it must list pairs of width and "
            f"height, multiples of {side}, the side of the tower's pictures"
        )
    return Anyres(side, grid, tuple((int(width), int(height)) for width, height in said), merge)


def _fits(pair: Any, side: int) -> bool:
    return (
        isinstance(pair, list) and len(pair) == 2 and all(isinstance(x, int) and x > 0 and x % side == 0 for x in pair)
    )
