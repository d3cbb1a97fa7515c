"""The Q-Former of BLIP-2 (Li et al. 2023, arXiv 2301.12597) over transformers' layers, without its text half."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Blip2QFormerConfig
from transformers.models.blip_2.modeling_blip_2 import Blip2QFormerAttention, Blip2QFormerEncoder

CROSS_ATTENTION_EVERY = 2
"""Layers: the first one of each two looks at the picture."""


class NamedAttention(Blip2QFormerAttention):
    """Attention whose inner part is named ``self``, as in BERT and in published weights."""

    def __init__(self, config: Blip2QFormerConfig, is_cross_attention: bool = False) -> None:
        super().__init__(config, is_cross_attention)
        self.add_module("self", self._modules.pop("attention"))

    @property
    def attention(self) -> nn.Module | None:
        return self._modules["self"]


class QFormer(nn.Module):
    """A fixed number of visual tokens of any number of features.

    Args:
        vision: width of the features.
        hidden: width of the visual tokens.
        queries: number of visual tokens.
        sizes: what differs from BERT base.
        attention: transformers' name of the attention to use.
    """

    def __init__(
        self, vision: int, hidden: int, queries: int, sizes: Mapping[str, Any], attention: str | None = None
    ) -> None:
        super().__init__()
        wanted = {"use_qformer_text_input": False, "cross_attention_frequency": CROSS_ATTENTION_EVERY, **sizes}
        config: Any = Blip2QFormerConfig(encoder_hidden_size=vision, **wanted)
        config._attn_implementation = attention or "sdpa"
        self.eps = config.layer_norm_eps
        self.bert = nn.Module()
        self.bert.embeddings = nn.Module()
        positions = torch.arange(config.max_position_embeddings)[None]
        self.bert.embeddings.register_buffer("position_ids", positions)  # in published files, and never used
        self.bert.encoder = Blip2QFormerEncoder(config)
        for layer in self.bert.encoder.layer:
            layer.attention = NamedAttention(config)
            if layer.has_cross_attention:
                layer.crossattention = NamedAttention(config, is_cross_attention=True)
        self.query_tokens = nn.Parameter(torch.zeros(1, queries, config.hidden_size))
        self.projector = nn.Linear(config.hidden_size, hidden)

    def forward(self, features: Tensor) -> Tensor:
        """[N, queries, hidden] of features [N, L, vision]."""
        queries = F.layer_norm(self.query_tokens, self.query_tokens.shape[-1:], eps=self.eps)
        encoder: Any = self.bert.encoder
        states = encoder(
            queries.expand(len(features), -1, -1), encoder_hidden_states=features, query_length=queries.shape[1]
        ).last_hidden_state
        return self.projector(states)
