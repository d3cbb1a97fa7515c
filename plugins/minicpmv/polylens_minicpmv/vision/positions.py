"""Position tables, computed where they are used: they then survive meta devices, partitioning and casting."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def sincos(dim: int, height: int, width: int, *, device: torch.device | None = None) -> Tensor:
    """2-D sine-cosine positions (MAE, He et al. 2021), float32 [height * width, dim], rows first.

    The first half of the dimensions says the column and the second half the row, each as [sin | cos], from whole
    grid indices.
    """
    quarter = dim // 4
    exponent = torch.arange(quarter, dtype=torch.float32, device=device) / quarter
    frequency = 1.0 / 10000**exponent
    rows = torch.arange(height, dtype=torch.float32, device=device)
    columns = torch.arange(width, dtype=torch.float32, device=device)
    row, column = torch.meshgrid(rows, columns, indexing="ij")
    return torch.cat([_waves(column, frequency), _waves(row, frequency)], dim=1)


def _waves(index: Tensor, frequency: Tensor) -> Tensor:
    angle = torch.outer(index.flatten(), frequency)
    return torch.cat([angle.sin(), angle.cos()], dim=1)


def resample(table: Tensor, height: int, width: int) -> Tensor:
    """A learned square table for another grid, bicubic with antialiasing, as timm does.

    Args:
        table: [1, side * side, D].

    Returns:
        [height * width, D] in the type of the table; computed in float32 at least.
    """
    side = int(table.shape[1] ** 0.5)
    if (height, width) == (side, side):
        return table[0]
    wide = table.to(torch.promote_types(table.dtype, torch.float32))
    grid = wide.unflatten(1, (side, side)).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, size=(height, width), mode="bicubic", antialias=True, align_corners=False)
    return grid.flatten(2)[0].T.to(table.dtype)
