"""How MiniCPM-V cuts a picture: an overview and, of a large picture, up to ``max_slice_nums`` slices.

One algorithm in versions 2.0 to 2.6 (``slice_image`` of openbmb/MiniCPM-V-2), with its roundings: Python's ``round``
(half to even), ``int`` towards zero, and a width that is computed from the already truncated height.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from polylens.contracts import Crop, SlicedImage
from polylens.errors import InputError
from polylens_minicpmv.options import MiniCPMVOptions, NativeOptions
from polylens_minicpmv.versions import detect_version

Size = tuple[int, int]


def to_multiple(length: float, patch: int) -> int:
    """The nearest multiple of the patch size, one patch at least."""
    return max(round(length / patch) * patch, patch)


def fit(size: tuple[float, float], scale: int, patch: int, *, upscale: bool) -> Size:
    """Width and height in whole patches: about ``scale`` squared in area and the same aspect ratio, but never larger
    than the picture unless ``upscale``.

    >>> fit((100, 200), 448, 14, upscale=True)
    (322, 630)
    >>> fit((100, 200), 448, 14, upscale=False)
    (98, 196)
    """
    width, height = size
    if upscale or width * height > scale * scale:
        ratio = width / height
        height = int(scale / math.sqrt(ratio))
        width = int(height * ratio)
    return to_multiple(width, patch), to_multiple(height, patch)


def choose_grid(size: Size, scale: int, max_slices: int) -> tuple[int, int] | None:
    """Columns and rows whose aspect ratio is closest to the picture's; ``None`` where one crop is enough.

    >>> choose_grid((595, 842), 448, 9)
    (1, 2)
    >>> choose_grid((400, 400), 448, 9)
    """
    width, height = size
    wanted = min(math.ceil(width * height / (scale * scale)), max_slices)
    if wanted <= 1:
        return None
    counts = [n for n in (wanted - 1, wanted, wanted + 1) if n != 1 and n <= max_slices]
    grids = [(columns, n // columns) for n in counts for columns in range(1, n + 1) if n % columns == 0]
    ratio = math.log(width / height)
    return min(grids, key=lambda grid: abs(ratio - math.log(grid[0] / grid[1])))  # the first of equals


def refine(size: Size, grid: tuple[int, int], scale: int, patch: int) -> Size:
    """The size to which a sliced picture is resized: a whole number of patches in every slice."""
    columns, rows = grid
    cell = (to_multiple(size[0], columns) / columns, to_multiple(size[1], rows) / rows)
    width, height = fit(cell, scale, patch, upscale=True)
    return width * columns, height * rows


class MiniCPMVSlicer:
    """Decides the crops of a picture.

    Args:
        scale_resolution: side of the square whose area a crop has, in pixels.
        patch_size: of the vision tower, in pixels.
        max_slice_nums: most slices, beside the overview.
        tokens: visual tokens of a crop.
        slice_mode: false leaves pictures whole and in their own size.
    """

    def __init__(
        self, scale_resolution: int, patch_size: int, max_slice_nums: int, tokens: int, slice_mode: bool = True
    ) -> None:
        self.scale = scale_resolution
        self.patch = patch_size
        self.max_slice_nums = max_slice_nums
        self.tokens = tokens
        self.slice_mode = slice_mode

    def slice(self, size: Size) -> SlicedImage:
        """The overview, then the slices row by row.

        Raises:
            InputError: a side of the picture is not positive.
        """
        if min(size) < 1:
            raise InputError(f"a picture of {size[0]} x {size[1]} pixels is empty; both sides must be positive")
        grid = choose_grid(size, self.scale, self.max_slice_nums) if self.slice_mode else None
        crops = [self._whole(self._overview_size(size, grid))]
        if grid is not None:
            crops += self._cells(refine(size, grid, self.scale, self.patch), grid)
        return SlicedImage(size, tuple(crops), grid, self._boxes(size, grid))

    def _overview_size(self, size: Size, grid: tuple[int, int] | None) -> Size:
        if not self.slice_mode:
            return size
        return fit(size, self.scale, self.patch, upscale=grid is None)

    def _whole(self, scaled: Size) -> Crop:
        return Crop(scaled, (0, 0, *scaled), self._tokens(scaled))

    def _tokens(self, size: Size) -> int:
        return self.tokens

    def _cells(self, scaled: Size, grid: tuple[int, int]) -> list[Crop]:
        columns, rows = grid
        width, height = scaled[0] // columns, scaled[1] // rows
        corners = [(column * width, row * height) for row in range(rows) for column in range(columns)]
        tokens = self._tokens((width, height))
        return [Crop(scaled, (left, top, left + width, top + height), tokens) for left, top in corners]

    def _boxes(self, size: Size, grid: tuple[int, int] | None) -> np.ndarray:
        """[V, 4]: every token of a crop carries the box of its crop, because the resampler mixes places."""
        boxes = [(0.0, 0.0, 1.0, 1.0)]
        if grid is not None:
            columns, rows = grid
            boxes += [
                (column / columns, row / rows, (column + 1) / columns, (row + 1) / rows)
                for row in range(rows)
                for column in range(columns)
            ]
        places = np.asarray(boxes) * (*size, *size)
        return np.repeat(places, self.tokens, axis=0).astype(np.float32)


class MergedSlicer(MiniCPMVSlicer):
    """Crops of versions 4.6 and 4.7, where a visual token is a square of ``unit`` pixels that has a place.

    Args:
        scale_resolution: side of the square whose area a crop has, in pixels.
        unit: side of the square that becomes one visual token, in pixels of a crop.
    """

    def __init__(self, scale_resolution: int, unit: int, max_slice_nums: int, slice_mode: bool = True) -> None:
        super().__init__(scale_resolution, unit, max_slice_nums, tokens=1, slice_mode=slice_mode)

    def _overview_size(self, size: Size, grid: tuple[int, int] | None) -> Size:
        return fit(size, self.scale, self.patch, upscale=grid is None)

    def _tokens(self, size: Size) -> int:
        return (size[0] // self.patch) * (size[1] // self.patch)

    def slice(self, size: Size) -> SlicedImage:
        sliced = super().slice(size)
        crops = zip(sliced.crops, sliced.token_boxes, strict=True)  # of whole crops
        boxes = [_squares(box, crop.size[0] // self.patch, crop.size[1] // self.patch) for crop, box in crops]
        return replace(sliced, token_boxes=np.concatenate(boxes))


def _squares(box: np.ndarray, columns: int, rows: int) -> np.ndarray:
    """The cells of a box, row by row: float32 [rows * columns, 4]."""
    x = np.linspace(box[0], box[2], columns + 1, dtype=np.float32)
    y = np.linspace(box[1], box[3], rows + 1, dtype=np.float32)
    left, top = np.meshgrid(x[:-1], y[:-1])
    right, bottom = np.meshgrid(x[1:], y[1:])
    return np.stack([left, top, right, bottom], axis=-1).reshape(-1, 4)


def merged_slicer_for(config: Mapping[str, Any], options: NativeOptions) -> MergedSlicer:
    """The slicer of a checkpoint of version 4.6 or 4.7."""
    patch = config.get("vision_config", {}).get("patch_size", 14)
    unit = patch * (2 if config.get("downsample_mode") == "4x" else 4)
    return MergedSlicer(config.get("image_size", 448), unit, options.max_slice_nums, options.slice_mode)


def slicer_for(config: Mapping[str, Any], options: MiniCPMVOptions) -> MiniCPMVSlicer:
    """The slicer of a checkpoint; ``options`` take precedence over its ``config.json``."""
    said = {**config, **(config.get("slice_config") or {})}
    limit = said.get("max_slice_nums", 9) if options.max_slice_nums is None else options.max_slice_nums
    mode = said.get("slice_mode", True) if options.slice_mode is None else options.slice_mode
    return MiniCPMVSlicer(
        scale_resolution=said.get("scale_resolution", 448),
        patch_size=said.get("patch_size", 14),
        max_slice_nums=limit,
        tokens=config.get("query_num", 96 if detect_version(config) == "2.5" else 64),
        slice_mode=mode,
    )
