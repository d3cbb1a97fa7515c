"""The vision towers of TinyLLaVA, under the names of the published files."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import CLIPVisionModel, Dinov2Config, Dinov2Model, SiglipVisionModel
from transformers.models.dinov2.modeling_dinov2 import Dinov2Attention

from polylens.errors import InputError
from polylens.modeling.towers import FeatureTower
from polylens_tinyllava.configuration import MOF, MixtureConfig


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


class VisionTower(FeatureTower):
    """The tower, or the two of a mixture of features: ``_vision_tower.*``.

    Raises:
        InputError: the towers of the mixture differ in width.
    """

    def __init__(self, config: MixtureConfig) -> None:
        super().__init__(config)
        first: Any = config.vision()
        if config.tower == MOF:
            second: Any = config.second_vision()
            _check_mixture(first, second)
            clip, dinov2 = CLIPVisionModel(first), NamedDinov2(second)
            self._vision_tower = nn.ModuleDict({"clip": nn.ModuleDict({"vision_model": clip}), "dinov2": dinov2})
            self.look_through(clip, dinov2)
        else:
            model = tower_of(config)
            self._vision_tower = model if config.tower == "dinov2" else nn.ModuleDict({"vision_model": model})
            self.look_through(model)


def tower_of(config: MixtureConfig) -> nn.Module:
    """A SigLIP, CLIP or DINOv2."""
    values: Any = config.vision()
    return {"siglip": SiglipVisionModel, "clip": CLIPVisionModel, "dinov2": NamedDinov2}[config.tower](values)


def _check_mixture(first: Any, second: Any) -> None:
    if (first.model_type, first.hidden_size) != ("clip_vision_model", second.hidden_size):
        raise InputError(
            f"config.json: a mixture of features needs a CLIP and a DINOv2 of one width; these are "
            f"{first.model_type} with {first.hidden_size} and dinov2 with {second.hidden_size}"
        )
