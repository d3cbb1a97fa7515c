"""TinyLLaVA under the names of the published files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from transformers import initialization as init

from polylens.modeling.connectors import interleave
from polylens.modeling.parts_model import PartsModel, TransformersPartsModel
from polylens_tinyllava.configuration import MOF, LlavaHfConfig, TinyLlavaConfig, read_config
from polylens_tinyllava.connectors import connector_for
from polylens_tinyllava.connectors.qformer import QFormer
from polylens_tinyllava.connectors.resampler import Resampler
from polylens_tinyllava.towers import VisionTower

QUERY_STD = 0.02


class Connector(nn.Module):
    """The connector, one level down, as published."""

    def __init__(self, connector: nn.Module) -> None:
        super().__init__()
        self._connector = connector


class TinyLlavaForConditionalGeneration(PartsModel):
    """``language_model.*``, ``vision_tower._vision_tower.*``, ``connector._connector.*``."""

    config: TinyLlavaConfig
    config_class = TinyLlavaConfig

    def __init__(self, config: TinyLlavaConfig) -> None:
        super().__init__(config)
        self.vision_tower = VisionTower(config)
        width = self.language_model.config.hidden_size
        self.connector = Connector(connector_for(config, self.vision_tower.width, width))
        self.finish("Resampler", "Blip2QFormerLayer")

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, Resampler):
            init.normal_(module.latents)
        elif isinstance(module, QFormer):
            init.normal_(module.query_tokens, std=QUERY_STD)

    @property
    def tower(self) -> nn.Module:
        return self.vision_tower

    @property
    def projector(self) -> nn.Module:
        return self.connector

    @property
    def feature_size(self) -> int:
        return self.vision_tower.width * (2 if self.config.tower == MOF else 1)

    def connect(self, features: Tensor) -> Tensor:
        connector: Any = self.connector._connector
        if self.config.tower != MOF:
            return connector(features)
        first, second = features.chunk(2, dim=-1)
        return interleave(connector["clip"](first), connector["dinov2"](second))


class LlavaForConditionalGeneration(TransformersPartsModel):
    """TinyLLaVA in the layout of transformers' LLaVA."""

    config: LlavaHfConfig
    config_class = LlavaHfConfig


def build(config: Mapping[str, Any]) -> PartsModel:
    """The model, without weights, for the content of ``config.json``."""
    read = read_config(config)
    return (
        LlavaForConditionalGeneration(read)
        if isinstance(read, LlavaHfConfig)
        else TinyLlavaForConditionalGeneration(read)
    )
