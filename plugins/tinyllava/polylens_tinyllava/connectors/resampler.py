"""The Perceiver resampler of Flamingo (Alayrac et al. 2022, arXiv 2204.14198)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

HEADS, HEAD_DIM, WIDENING = 8, 64, 4


class PerceiverAttention(nn.Module):
    """Latents attend to the features and to themselves."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        inner = HEADS * HEAD_DIM
        self.norm_media = nn.LayerNorm(dim)
        self.norm_latents = nn.LayerNorm(dim)
        self.to_q = nn.Linear(dim, inner, bias=False)
        self.to_kv = nn.Linear(dim, 2 * inner, bias=False)
        self.to_out = nn.Linear(inner, dim, bias=False)

    def forward(self, media: Tensor, latents: Tensor) -> Tensor:
        """[N, Q, D] of features [N, L, D] and latents [N, Q, D]."""
        latents = self.norm_latents(latents)
        seen = torch.cat([self.norm_media(media), latents], dim=1)
        key, value = self.to_kv(seen).chunk(2, dim=-1)
        heads = [part.unflatten(-1, (HEADS, HEAD_DIM)).transpose(1, 2) for part in (self.to_q(latents), key, value)]
        return self.to_out(F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2))


class Resampler(nn.Module):
    """A fixed number of visual tokens of any number of features.

    Args:
        vision: width of the features.
        hidden: width of the visual tokens.
        queries: number of visual tokens.
        layers: number of layers of attention and feed-forward.
    """

    def __init__(self, vision: int, hidden: int, queries: int, layers: int) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.zeros(queries, hidden))
        self.linear = nn.Linear(vision, hidden)
        self.layers = nn.ModuleList(
            nn.ModuleList([PerceiverAttention(hidden), feed_forward(hidden)]) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(hidden)

    def forward(self, features: Tensor) -> Tensor:
        """[N, queries, hidden] of features [N, L, vision]."""
        media = self.linear(features)
        latents = self.latents.expand(len(features), -1, -1)
        for attend, transform in self.layers:  # pyright: ignore[reportGeneralTypeIssues]
            latents = attend(media, latents) + latents
            latents = transform(latents) + latents
        return self.norm(latents)


def feed_forward(dim: int) -> nn.Sequential:
    inner = WIDENING * dim
    return nn.Sequential(
        nn.LayerNorm(dim), nn.Linear(dim, inner, bias=False), nn.GELU(), nn.Linear(inner, dim, bias=False)
    )
