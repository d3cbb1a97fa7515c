"""The vision tower of MiniCPM-V 2.0: SigLIP's ViT under timm's names, over crops of any shape in one call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers.modeling_layers import GradientCheckpointingLayer

from polylens_minicpmv.vision.attention import attend, split_heads
from polylens_minicpmv.vision.patches import Grid, length_mask, patch_grid, strips
from polylens_minicpmv.vision.positions import resample

if TYPE_CHECKING:
    from polylens_minicpmv.models.minicpmv2 import MiniCPMV2Config

EPS = 1e-6


class Attention(nn.Module):
    """Self-attention with fused projections."""

    def __init__(self, config: MiniCPMV2Config) -> None:
        super().__init__()
        dim = config.vision_sizes.hidden_size
        self.config = config
        self.heads = config.vision_sizes.num_attention_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, states: Tensor, mask: Tensor | None) -> Tensor:
        query, key, value = (split_heads(part, self.heads) for part in self.qkv(states).chunk(3, dim=-1))
        return self.proj(attend(query, key, value, mask, self.config._attn_implementation))


class Mlp(nn.Module):
    """Two layers around the exact GELU (the tower of versions 2.5 and 2.6 has the tanh form)."""

    def __init__(self, config: MiniCPMV2Config) -> None:
        super().__init__()
        sizes = config.vision_sizes
        self.fc1 = nn.Linear(sizes.hidden_size, sizes.intermediate_size)
        self.fc2 = nn.Linear(sizes.intermediate_size, sizes.hidden_size)

    def forward(self, states: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(states)))


class Block(GradientCheckpointingLayer):
    """A pre-norm transformer block."""

    def __init__(self, config: MiniCPMV2Config) -> None:
        super().__init__()
        dim = config.vision_sizes.hidden_size
        self.norm1 = nn.LayerNorm(dim, eps=EPS)
        self.attn = Attention(config)
        self.norm2 = nn.LayerNorm(dim, eps=EPS)
        self.mlp = Mlp(config)

    def forward(self, states: Tensor, mask: Tensor | None) -> Tensor:
        states = states + self.attn(self.norm1(states), mask)
        return states + self.mlp(self.norm2(states))


class PatchEmbedding(nn.Module):
    """Patches to vectors by one convolution over patches laid side by side."""

    def __init__(self, dim: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, kernel_size=patch, stride=patch)

    def forward(self, strips: Tensor) -> Tensor:
        """[N, 3, patch, patch * L] to [N, L, D]."""
        return self.proj(strips).flatten(2).transpose(1, 2)


class VisionTower(nn.Module):
    """Crops to patch features. ``drop_vision_last_layer`` leaves the last block out, as the original does."""

    def __init__(self, config: MiniCPMV2Config) -> None:
        super().__init__()
        sizes = config.vision_sizes
        self.patch = config.patch_size
        side = sizes.image_size // self.patch
        depth = sizes.num_hidden_layers - int(config.drop_vision_last_layer)
        self.patch_embed = PatchEmbedding(sizes.hidden_size, self.patch)
        self.pos_embed = nn.Parameter(torch.zeros(1, side * side, sizes.hidden_size))
        self.blocks = nn.ModuleList(Block(config) for _ in range(depth))
        self.norm = nn.LayerNorm(sizes.hidden_size, eps=EPS)

    def forward(self, crops: Sequence[Tensor]) -> Tensor:
        """Features [N, L, D] of the longest crop's length.

        Args:
            crops: normalised pixels, [3, H, W] each.
        """
        grids = [patch_grid(crop.shape[-2:], self.patch) for crop in crops]
        states = self.patch_embed(strips(crops, self.patch))
        states = states + self._positions(grids)
        mask = length_mask([height * width for height, width in grids], states.device)
        for block in self.blocks:
            states = block(states, mask)
        return self.norm(states)

    def _positions(self, grids: Sequence[Grid]) -> Tensor:
        tables = {grid: resample(self.pos_embed, *grid) for grid in dict.fromkeys(grids)}
        return pad_sequence([tables[grid] for grid in grids], batch_first=True)
