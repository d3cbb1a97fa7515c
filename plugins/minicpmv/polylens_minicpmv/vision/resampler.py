"""The connector of MiniCPM-V: one cross-attention from learned queries to the patches of a crop."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from polylens_minicpmv.configuration import HEAD_DIM, MiniCPMVConfig
from polylens_minicpmv.vision.attention import attend, split_heads
from polylens_minicpmv.vision.patches import Grid, length_mask
from polylens_minicpmv.vision.positions import sincos

EPS = 1e-6


class CrossAttention(nn.Module):
    """Attention under the names of ``nn.MultiheadAttention``, which itself reads the weights of its output layer
    from outside that layer and so fails when ZeRO-3 has partitioned them."""

    def __init__(self, config: MiniCPMVConfig) -> None:
        super().__init__()
        dim = config.hidden_size
        self.config = config
        self.heads = dim // HEAD_DIM
        self.in_proj_weight = nn.Parameter(torch.zeros(3 * dim, dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = nn.Linear(dim, dim)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        inputs = (query, key, value)
        weights, biases = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        states = [
            split_heads(nn.functional.linear(x, w, b), self.heads)
            for x, w, b in zip(inputs, weights, biases, strict=True)
        ]
        return self.out_proj(attend(states[0], states[1], states[2], mask, self.config._attn_implementation))


class Resampler(nn.Module):
    """``query_num`` visual tokens out of the patches of each crop.

    Keys carry the 2-D position of their patch, values do not.

    Args:
        query_positions: queries carry a fixed position too, which the checkpoint stores; so in version 2.0 alone. It
            is a buffer here, because ``from_pretrained`` makes every parameter trainable.
    """

    pos_embed: Tensor | None

    def __init__(self, config: MiniCPMVConfig, *, query_positions: bool = False) -> None:
        super().__init__()
        dim = config.hidden_size
        self.query = nn.Parameter(torch.zeros(config.query_num, dim))
        self.register_buffer("pos_embed", torch.zeros(config.query_num, dim) if query_positions else None)
        self.kv_proj = nn.Linear(config.vision_dim, dim, bias=False)
        self.attn = CrossAttention(config)
        self.ln_q = nn.LayerNorm(dim, eps=EPS)
        self.ln_kv = nn.LayerNorm(dim, eps=EPS)
        self.ln_post = nn.LayerNorm(dim, eps=EPS)
        self.proj = nn.Parameter(torch.zeros(dim, dim))

    def forward(self, features: Tensor, grids: Sequence[Grid]) -> Tensor:
        """Visual tokens [N, query_num, D].

        Args:
            features: [N, L, D_vision], padded to the longest crop.
            grids: rows and columns of patches of each crop.
        """
        value = self.ln_kv(self.kv_proj(features))
        key = value + self._key_positions(grids, value)
        query = self.ln_q(self.query)
        if self.pos_embed is not None:
            query = query + self.pos_embed.to(self.query.dtype)  # a buffer, which DeepSpeed keeps in float32
        mask = length_mask([height * width for height, width in grids], features.device)
        return self.ln_post(self.attn(query.expand(len(features), -1, -1), key, value, mask)) @ self.proj

    def _key_positions(self, grids: Sequence[Grid], like: Tensor) -> Tensor:
        dim = like.shape[-1]
        tables = {grid: sincos(dim, *grid, device=like.device).to(like.dtype) for grid in dict.fromkeys(grids)}
        return pad_sequence([tables[grid] for grid in grids], batch_first=True)


def query_positions(count: int, dim: int) -> Tensor:
    """Positions of the queries on a square grid, float32 [count, dim]."""
    side = int(count**0.5)
    return sincos(dim, side, side)
