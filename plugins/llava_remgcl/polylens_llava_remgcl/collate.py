"""Examples into a batch that knows the sizes of pictures whose tiles are merged."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from polylens.contracts import Batch, Example
from polylens.errors import InputError
from polylens.modeling.collate import PaddingCollator

SIZES = "picture_sizes"
"""Of ``Batch.rows``: int64 [B, MOST, 2], width and height of each picture that has tiles; zeros fill rows up."""

MOST = 64
"""Pictures with tiles in one record: each is several hundred tokens, and no context holds so many."""


class PictureCollator(PaddingCollator):
    """Pads rows, and notes sizes of pictures as far as they are needed."""

    def __call__(self, examples: Sequence[Example]) -> Batch:
        batch = super().__call__(examples)
        batch.rows[SIZES] = torch.stack([sizes_of(example) for example in examples])
        return batch


def sizes_of(example: Example) -> Tensor:
    """int64 [MOST, 2].

    Raises:
        InputError: too many pictures.
    """
    tiled = [image.size for image in example.images if image.grid is not None]
    if len(tiled) > MOST:
        raise InputError(f"{example.id}: {len(tiled)} pictures with tiles in one record; {MOST} are allowed")
    sizes = torch.zeros(MOST, 2, dtype=torch.long)
    if tiled:
        sizes[: len(tiled)] = torch.tensor(tiled)
    return sizes
