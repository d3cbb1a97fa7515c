"""Connectors that several model families share: from features of the vision tower to visual tokens."""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN

from polylens.errors import InputError

_MLP = re.compile(r"mlp([1-9]\d?)x_gelu")


def build_connector(name: str, vision: int, hidden: int) -> nn.Module | None:
    """The connector of that name, under the names of its published weights, or ``None`` if it is not one of these.

    ``identity``; ``linear``; ``mlpNx_gelu``, N linear layers with GELU between them (LLaVA 1.5, Liu et al. 2023,
    arXiv 2310.03744).

    Args:
        vision: width of the features.
        hidden: width of the language model.

    Raises:
        InputError: ``identity`` between different widths.

    >>> build_connector("mlp2x_gelu", 8, 4)
    Sequential(
      (0): Linear(in_features=8, out_features=4, bias=True)
      (1): GELU(approximate='none')
      (2): Linear(in_features=4, out_features=4, bias=True)
    )
    """
    layers = _MLP.fullmatch(name)
    if layers:
        return mlp(int(layers[1]), vision, hidden)
    if name == "linear":
        return nn.Linear(vision, hidden)
    if name == "identity":
        if vision != hidden:
            raise InputError(
                f"the connector 'identity' does not fit: the vision tower's features are {vision} wide, and the "
                f"language model is {hidden} wide; use linear or mlp2x_gelu"
            )
        return nn.Identity()
    return None


def mlp(layers: int, vision: int, hidden: int) -> nn.Sequential:
    """Linear layers, the first one from ``vision`` to ``hidden``, with GELU between them."""
    parts: list[nn.Module] = [nn.Linear(vision, hidden)]
    for _ in range(layers - 1):
        parts += [nn.GELU(), nn.Linear(hidden, hidden)]
    return nn.Sequential(*parts)


class TwoLayers(nn.Module):
    """Two linear layers with an activation between them, under the names of transformers' files.

    Args:
        activation: transformers' name of it.
        bias: whether the layers have one.
    """

    def __init__(self, vision: int, hidden: int, activation: str = "gelu", bias: bool = True) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(vision, hidden, bias=bias)
        self.act = ACT2FN[activation]
        self.linear_2 = nn.Linear(hidden, hidden, bias=bias)

    def forward(self, features: Tensor) -> Tensor:
        """[..., hidden] of features [..., vision]."""
        return self.linear_2(self.act(self.linear_1(features)))


def interleave(first: Tensor, second: Tensor) -> Tensor:
    """Tokens of two sequences [N, L, D] in turns: [N, 2 L, D]."""
    return torch.stack([first, second], dim=2).flatten(1, 2)
