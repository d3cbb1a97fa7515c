"""Vision transformers of transformers, as far as vision-language models look into them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPVisionModel, SiglipVisionModel

from polylens.errors import InputError
from polylens.modeling.parts import PartsConfig
from polylens.modeling.squares import FULL


class Unused(nn.Module):
    """Weights of a module that are read and written and never used.

    They are buffers, so that no optimizer, adapter or quantisation touches them, and names on disk stay complete.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        for name, child in module.named_children():
            self.add_module(name, Unused(child))
        for name, weight in module.named_parameters(recurse=False):
            self.register_buffer(name, _blank(weight))


def _blank(weight: Tensor) -> Tensor:
    """Zeros in the shape of a weight, also where ZeRO-3 has just parted it."""
    return torch.zeros(getattr(weight, "ds_shape", weight.shape), dtype=weight.dtype)


class Tower:
    """The first layers of a ``SiglipVisionModel``, ``CLIPVisionModel`` or ``Dinov2Model``; the others become unused.

    Not a module: the tower keeps its own place, and its names, in the model.

    Args:
        model: of transformers; what comes behind the wanted layer is replaced in it.
        feature_layer: index into transformers' ``hidden_states``, which begin with the embeddings: -2 is the output
            of the last layer but one. No norm follows it.

    Raises:
        InputError: the tower has no such layer.
    """

    def __init__(self, model: Any, feature_layer: int) -> None:
        encoder = model.encoder
        self.layers: nn.ModuleList = encoder.layers if hasattr(encoder, "layers") else encoder.layer
        self.embeddings, self.norm = model.embeddings, getattr(model, "pre_layrnorm", None)
        self.depth = feature_layer if feature_layer >= 0 else len(self.layers) + 1 + feature_layer
        if not 0 <= self.depth <= len(self.layers):
            raise InputError(
                f"config.json: vision_feature_layer is {feature_layer}, and the vision tower has {len(self.layers)} "
                f"layers; it may be from {-len(self.layers) - 1} to {len(self.layers)}"
            )
        self._disuse(model)

    def _disuse(self, model: Any) -> None:
        for place in range(self.depth, len(self.layers)):
            self.layers[place] = Unused(self.layers[place])
        for name in ("post_layernorm", "layernorm", "head"):
            if isinstance(getattr(model, name, None), nn.Module):
                setattr(model, name, Unused(getattr(model, name)))
        if getattr(self.embeddings, "mask_token", None) is not None:
            token = _blank(self.embeddings.mask_token)
            del self.embeddings.mask_token
            self.embeddings.register_buffer("mask_token", token)

    def __call__(self, pixels: Tensor) -> Tensor:
        """Hidden states [N, L, D] of normalised pixels [N, 3, H, W], the class token first if the tower has one."""
        states = self.embeddings(pixels)
        if self.norm is not None:
            states = self.norm(states)
        for layer in self.layers[: self.depth]:
            states = layer(states, None)
        return states


class FeatureTower(nn.Module):
    """Towers up to the layer whose states are features; a subclass names the modules.

    Attributes:
        width: of the features of one tower.
    """

    def __init__(self, config: PartsConfig) -> None:
        super().__init__()
        self.width: int = config.vision().hidden_size
        self._layer, self._towers = config.vision_feature_layer, []
        self._first_token = 0 if config.vision_feature_select_strategy in FULL else 1

    def look_through(self, *models: nn.Module) -> None:
        self._towers = [Tower(model, self._layer) for model in models]

    def forward(self, pixels: Tensor) -> Tensor:
        """Features [N, L, width] of normalised pixels [N, 3, H, W]; those of several towers beside each other."""
        seen = [tower(pixels)[:, self._first_token :] for tower in self._towers]
        return torch.cat(seen, dim=-1)


class TransformersTower(FeatureTower):
    """A SigLIP or CLIP under the names of transformers' files: ``vision_model.*``.

    Raises:
        InputError: another tower.
    """

    def __init__(self, config: PartsConfig) -> None:
        super().__init__(config)
        vision: Any = config.vision()
        kinds = {"siglip_vision_model": SiglipVisionModel, "clip_vision_model": CLIPVisionModel}
        if vision.model_type not in kinds:
            raise InputError(f"config.json: the vision tower is a {vision.model_type}; it may be {', '.join(kinds)}")
        self.vision_model = kinds[vision.model_type](vision)
        self.look_through(self.vision_model)
