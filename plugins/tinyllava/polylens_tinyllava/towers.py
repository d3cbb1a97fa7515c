"""The vision towers of TinyLLaVA, under the names of the published files."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPVisionModel, Dinov2Config, Dinov2Model, SiglipVisionModel
from transformers.models.dinov2.modeling_dinov2 import Dinov2Attention

from polylens.modeling.towers import Tower
from polylens_tinyllava.configuration import MOF, PartsConfig


class NamedAttention(Dinov2Attention):
    """DINOv2's attention under the names of its published weights, which transformers 5 has changed."""

    def __init__(self, config: Dinov2Config) -> None:
        super().__init__(config)
        inner: Any = {old: self._modules.pop(new) for old, new in PUBLISHED.items()}
        outer: Any = {"dense": self._modules.pop("o_proj")}
        self.attention, self.output = nn.ModuleDict(inner), nn.ModuleDict(outer)

    def __getattr__(self, name: str) -> Any:
        if name == "o_proj":
            return self.output["dense"]
        published = {new: old for old, new in PUBLISHED.items()}.get(name)
        return super().__getattr__(name) if published is None else self.attention[published]


PUBLISHED = {"query": "q_proj", "key": "k_proj", "value": "v_proj"}


class NamedDinov2(Dinov2Model):
    """DINOv2 whose attention carries published names; as a class of our own, transformers renames nothing in it."""

    def __init__(self, config: Dinov2Config) -> None:
        super().__init__(config)
        for layer in self.encoder.layer:
            layer.attention = NamedAttention(config)


class VisionTower(nn.Module):
    """The tower, or the two of a mixture of features, up to the layer whose states are features.

    Attributes:
        width: of the features of one tower.
    """

    def __init__(self, config: PartsConfig) -> None:
        super().__init__()
        first, layer = config.vision(), config.vision_feature_layer
        self.width: int = first.hidden_size
        if config.tower == MOF:
            dinov2 = NamedDinov2(config.second_vision())  # type: ignore[arg-type]
            self._vision_tower: Any = nn.ModuleDict({"clip": _wrapped(CLIPVisionModel(first)), "dinov2": dinov2})  # type: ignore[arg-type]
            models = [self._vision_tower["clip"]["vision_model"], dinov2]
        else:
            self._vision_tower = tower_module(config.tower, first)
            models = [_inner(self._vision_tower)]
        self._towers = [Tower(model, layer) for model in models]
        self._first_token = 0 if config.vision_feature_select_strategy in WHOLE else 1

    def forward(self, pixels: Tensor) -> Tensor:
        """Features [N, L, width] of normalised pixels [N, 3, H, W]; those of a mixture beside each other."""
        seen = [tower(pixels)[:, self._first_token :] for tower in self._towers]
        return torch.cat(seen, dim=-1)


WHOLE = ("cls_patch", "full")
"""Strategies that keep the first token; the others drop it, also where it is a patch, as in SigLIP."""


def tower_module(kind: str, config: Any) -> nn.Module:
    """A SigLIP, CLIP or DINOv2; the first two one level deeper, as published."""
    if kind == "dinov2":
        return NamedDinov2(config)
    return _wrapped(SiglipVisionModel(config) if kind == "siglip" else CLIPVisionModel(config))


def _wrapped(model: nn.Module) -> nn.ModuleDict:
    return nn.ModuleDict({"vision_model": model})


def _inner(module: Any) -> Any:
    return module["vision_model"] if isinstance(module, nn.ModuleDict) else module
