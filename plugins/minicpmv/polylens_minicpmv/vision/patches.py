"""Crops as strips of patches, which towers see side by side in one padded batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

Grid = tuple[int, int]
"""Rows and columns of patches."""


class PatchCrop(NamedTuple):
    """Pixels [3, H, W] of a crop, and how many patches long the tower sees it."""

    pixels: Tensor
    length: int


class CropFeatures(NamedTuple):
    """What the tower makes of a crop: features [L, D_vision], and rows and columns of its patches."""

    states: Tensor
    grid: Grid


class PaddedFeatures(Sequence[CropFeatures]):
    """What the tower makes of several crops.

    Args:
        states: [N, L, D_vision], padded to the longest crop.
        grids: rows and columns of patches of each crop.
    """

    def __init__(self, states: Tensor, grids: list[Grid]) -> None:
        self.states, self.grids = states, grids

    @classmethod
    def of(cls, crops: Sequence[CropFeatures]) -> PaddedFeatures:
        """Features of single crops, behind which zeros follow."""
        states = pad_sequence([crop.states for crop in crops], batch_first=True)
        return cls(states, [crop.grid for crop in crops])

    def __len__(self) -> int:
        return len(self.grids)

    def __getitem__(self, place: Any) -> Any:
        height, width = self.grids[place]
        return CropFeatures(self.states[place, : height * width], (height, width))


def patch_grid(size: Sequence[int], patch: int) -> Grid:
    """Rows and columns of patches of a crop of ``size`` (height, width).

    >>> patch_grid((28, 90), 14)
    (2, 7)
    """
    height, width = size
    return -(-height // patch), -(-width // patch)


def strips(crops: Sequence[Tensor], patch: int) -> Tensor:
    """Patches of every crop in reading order, [N, 3, patch, patch * L], zeros behind the last one.

    Args:
        crops: [3, H, W] each. A side that is no whole number of patches is filled up with zeros on the right and at
            the bottom.
    """
    rows = [_strip(crop, patch) for crop in crops]
    return pad_sequence(rows, batch_first=True).permute(0, 2, 3, 1)


def _strip(crop: Tensor, patch: int) -> Tensor:
    height, width = patch_grid(crop.shape[-2:], patch)
    crop = F.pad(crop, (0, width * patch - crop.shape[2], 0, height * patch - crop.shape[1]))
    patches = crop.view(3, height, patch, width, patch).permute(1, 3, 4, 0, 2)
    return patches.reshape(height * width * patch, 3, patch)


def length_mask(lengths: Sequence[int], device: torch.device) -> Tensor | None:
    """bool [N, 1, 1, L], false behind the end of a sequence; ``None`` if all are as long as the longest."""
    if min(lengths) == max(lengths):
        return None
    ends = torch.tensor(lengths, device=device).view(-1, 1, 1, 1)
    return torch.arange(max(lengths), device=device) < ends
