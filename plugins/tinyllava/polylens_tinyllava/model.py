"""TinyLLaVA under the names of the published files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from transformers import initialization as init
from transformers.activations import ACT2FN

from polylens.modeling.composed import ComposedModel, language_model_for
from polylens.modeling.connectors import interleave
from polylens_tinyllava.configuration import MOF, LlavaHfConfig, PartsConfig, TinyLlavaConfig, read_config
from polylens_tinyllava.connectors import connector_for
from polylens_tinyllava.connectors.qformer import QFormer
from polylens_tinyllava.connectors.resampler import Resampler
from polylens_tinyllava.options import TinyLlavaOptions
from polylens_tinyllava.processing import processing_for
from polylens_tinyllava.towers import HfVisionTower, VisionTower

QUERY_STD = 0.02


class PartsModel(ComposedModel):
    """What both layouts share: the parts that ``config.json`` describes."""

    config: PartsConfig

    def __init__(self, config: PartsConfig) -> None:
        super().__init__(config)
        processing = processing_for(config.to_dict(), TinyLlavaOptions(image_aspect_ratio="square"))
        self.mean, self.std, self._side = processing.mean, processing.std, processing.side
        self.language_model = language_model_for(config.text())

    @property
    def side(self) -> int:
        return self._side

    def _finish(self) -> None:
        whole = {*(self.language_model._no_split_modules or ()), *LAYERS}
        self._no_split_modules = sorted(whole)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, Resampler):
            init.normal_(module.latents)
        elif isinstance(module, QFormer):
            init.normal_(module.query_tokens, std=QUERY_STD)


LAYERS = ("SiglipEncoderLayer", "CLIPEncoderLayer", "Dinov2Layer", "Resampler", "Blip2QFormerLayer")


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
        self._finish()

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


class HfProjector(nn.Module):
    """Two linear layers with an activation between them, as transformers' LLaVA names them."""

    def __init__(self, config: LlavaHfConfig, vision: int, hidden: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(vision, hidden, bias=config.multimodal_projector_bias)
        self.act = ACT2FN[config.projector_hidden_act]
        self.linear_2 = nn.Linear(hidden, hidden, bias=config.multimodal_projector_bias)

    def forward(self, features: Tensor) -> Tensor:
        return self.linear_2(self.act(self.linear_1(features)))


class LlavaForConditionalGeneration(PartsModel):
    """``language_model.*``, ``vision_tower.vision_model.*``, ``multi_modal_projector.*``: transformers' LLaVA."""

    config: LlavaHfConfig
    config_class = LlavaHfConfig

    def __init__(self, config: LlavaHfConfig) -> None:
        super().__init__(config)
        self.vision_tower = HfVisionTower(config)
        width = self.language_model.config.hidden_size
        self.multi_modal_projector = HfProjector(config, self.vision_tower.width, width)
        self._finish()

    @property
    def tower(self) -> nn.Module:
        return self.vision_tower

    @property
    def projector(self) -> nn.Module:
        return self.multi_modal_projector

    @property
    def feature_size(self) -> int:
        return self.vision_tower.width


def build(config: Mapping[str, Any]) -> PartsModel:
    """The model, without weights, for the content of ``config.json``."""
    read = read_config(config)
    return (
        LlavaForConditionalGeneration(read)
        if isinstance(read, LlavaHfConfig)
        else TinyLlavaForConditionalGeneration(read)
    )
