"""The vision tower of versions 2.5 and 2.6: SigLIP's encoder over crops of any shape, with positions in buckets.

NaViT (Dehghani et al. 2023, arXiv 2307.06304) sees pictures in their own aspect ratio; Idefics2, whose layers and
names these are, gives a patch the position of its place in a grid of fixed size.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers.masking_utils import create_bidirectional_mask
from transformers.models.idefics2.configuration_idefics2 import Idefics2VisionConfig
from transformers.models.idefics2.modeling_idefics2 import Idefics2VisionTransformer

from polylens_minicpmv.vision.patches import Grid, PatchCrop, patch_grid, strips


class NaViTEmbeddings(nn.Module):
    """Patches to vectors, each with the position of its bucket, under the names of Idefics2."""

    def __init__(self, config: Idefics2VisionConfig) -> None:
        super().__init__()
        self.patch = int(config.patch_size)  # type: ignore[arg-type]
        self.side = int(config.image_size) // self.patch  # type: ignore[arg-type]
        self.patch_embedding = nn.Conv2d(3, config.hidden_size, kernel_size=self.patch, stride=self.patch)
        self.position_embedding = nn.Embedding(self.side**2, config.hidden_size)

    def forward(self, pixels: Tensor, positions: Tensor) -> Tensor:
        """[N, 3, patch, patch * L] and position ids [N, L] to [N, L, D]."""
        return self.patch_embedding(pixels).flatten(2).transpose(1, 2) + self.position_embedding(positions)


class NaViT(Idefics2VisionTransformer):
    """Crops to patch features.

    Args:
        flat_positions: number patches along a line, from the first one to the last one that the crop is seen with, as
            version 2.5 does by mistake; otherwise by row and column.
    """

    _no_split_modules = ["Idefics2EncoderLayer", "NaViTEmbeddings"]  # noqa: RUF012

    def __init__(self, config: Idefics2VisionConfig, *, flat_positions: bool = False) -> None:
        super().__init__(config)
        self.embeddings = NaViTEmbeddings(config)
        self.flat_positions = flat_positions
        self.post_init()

    def forward(self, crops: Sequence[PatchCrop]) -> Tensor:  # type: ignore[override]
        """Features [N, L, D] of the longest crop's length.

        Args:
            crops: normalised pixels. A crop whose ``length`` is greater than its number of patches attends to as many
                blank patches more; other padding is masked.
        """
        pixels = strips([crop.pixels for crop in crops], self.embeddings.patch)
        missing = max(crop.length for crop in crops) - pixels.shape[-1] // self.embeddings.patch
        pixels = nn.functional.pad(pixels, (0, missing * self.embeddings.patch))
        positions = pad_sequence([self._positions(crop) for crop in crops], batch_first=True).to(pixels.device)
        states = self.embeddings(pixels, positions)
        states = self.encoder(inputs_embeds=states, attention_mask=self._mask(crops, states)).last_hidden_state
        return self.post_layernorm(states)

    def _positions(self, crop: PatchCrop) -> Tensor:
        if self.flat_positions:
            return buckets(crop.length, self.embeddings.side)
        return grid_positions(patch_grid(crop.pixels.shape[-2:], self.embeddings.patch), self.embeddings.side)

    def _mask(self, crops: Sequence[PatchCrop], states: Tensor) -> Tensor | None:
        lengths = torch.tensor([crop.length for crop in crops])
        if bool((lengths == states.shape[1]).all()):
            return None
        mask = torch.arange(states.shape[1]) < lengths[:, None]
        return create_bidirectional_mask(self.config, states, mask.to(states.device))


@lru_cache(maxsize=4096)
def buckets(count: int, side: int) -> Tensor:
    """Which of ``side`` equal parts each of ``count`` equal steps from 0 to 1 begins in: int64 [count].

    As the originals compute it: ``arange`` on the CPU over a step that was rounded to float32. Exact fractions,
    ``index * step`` (transformers) and other devices put some steps into the part before or after.
    """
    step = torch.tensor(1 / count, dtype=torch.float32, device="cpu").item()
    steps = torch.arange(0, 1 - 1e-6, step, dtype=torch.float32, device="cpu")
    boundaries = torch.arange(1 / side, 1.0, 1 / side, dtype=torch.float32, device="cpu")
    return torch.bucketize(steps, boundaries, right=True)


def grid_positions(grid: Grid, side: int) -> Tensor:
    """Places of the patches of a crop in a table of ``side`` x ``side``, row by row: int64 [rows * columns]."""
    rows, columns = (buckets(count, side) for count in grid)
    return (rows[:, None] * side + columns).flatten()
