"""Random weights for presets: what the published parts were started from."""

from __future__ import annotations

import math

from torch import nn
from transformers import initialization as init

from polylens_minicpmv.vision.resampler import CrossAttention, Resampler, query_positions
from polylens_minicpmv.vision.vit import VisionTower

QUERY_STD = 0.02


def initialise(module: nn.Module) -> None:
    """Set the weights that lie directly in ``module``, a part of the tower or of the resampler.

    Dense layers start as in SigLIP (big_vision: Xavier; LeCun for patches; 1 / sqrt(D) for positions), queries and
    projection as in the resampler of MiniCPM-V. Its own small dense layers meet a LayerNorm at once, so their scale
    does not matter.
    """
    if any(weight.numel() == 0 for weight in module.parameters(recurse=False)):
        return  # partitioned by ZeRO-3: whoever starts random weights under it gathers them and calls again
    if isinstance(module, Resampler):
        init.trunc_normal_(module.query, std=QUERY_STD)
        init.normal_(module.proj, std=len(module.proj) ** -0.5)
        if module.pos_embed is not None:
            init.copy_(module.pos_embed, query_positions(*module.query.shape))
    elif isinstance(module, CrossAttention):
        init.xavier_uniform_(module.in_proj_weight)
        init.zeros_(module.in_proj_bias)
    elif isinstance(module, VisionTower):
        init.normal_(module.pos_embed, std=module.pos_embed.shape[-1] ** -0.5)
    elif isinstance(module, nn.Linear | nn.Conv2d):
        _weights(module)
    elif isinstance(module, nn.LayerNorm):
        init.ones_(module.weight)
        init.zeros_(module.bias)


def _weights(module: nn.Linear | nn.Conv2d) -> None:
    if isinstance(module, nn.Conv2d):
        init.trunc_normal_(module.weight, std=1 / math.sqrt(module.weight[0].numel()))
    else:
        init.xavier_uniform_(module.weight)
    if module.bias is not None:
        init.zeros_(module.bias)
