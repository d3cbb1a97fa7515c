"""Models that a ``config.json`` with the configurations of their parts describes."""

from __future__ import annotations

from typing import Any

from torch import nn

from polylens.modeling.composed import ComposedModel, language_model_for
from polylens.modeling.connectors import TwoLayers
from polylens.modeling.parts import PartsConfig, TransformersPartsConfig
from polylens.modeling.processing import processing_of_file, processing_of_tower
from polylens.modeling.towers import TransformersTower

WHOLE = ("SiglipEncoderLayer", "CLIPEncoderLayer", "Dinov2Layer")
"""Layers of towers, which are never spread over devices."""


class PartsModel(ComposedModel):
    """The base: the language model, and what the tower's pictures are made of.

    A subclass makes tower and connector, and calls ``finish``.
    """

    config: PartsConfig

    def __init__(self, config: PartsConfig) -> None:
        super().__init__(config)
        own = getattr(config, "image_processor", None)
        made = processing_of_file(own) if own else processing_of_tower(config.vision())
        self._side, _, self.mean, self.std = made
        self.language_model = language_model_for(config.text())

    @property
    def side(self) -> int:
        return self._side

    def finish(self, *layers: str) -> None:
        """The end of a constructor.

        Args:
            layers: names of further classes of modules that stay on one device.
        """
        whole = {*(self.language_model._no_split_modules or ()), *WHOLE, *layers}
        self._no_split_modules = sorted(whole)
        self.post_init()


class TransformersPartsModel(PartsModel):
    """``language_model.*``, ``vision_tower.vision_model.*``, ``multi_modal_projector.*``, as transformers' files."""

    config: TransformersPartsConfig

    def __init__(self, config: TransformersPartsConfig) -> None:
        super().__init__(config)
        self.vision_tower = TransformersTower(config)
        text: Any = self.language_model.config
        self.multi_modal_projector = TwoLayers(
            self.vision_tower.width,
            text.hidden_size,
            config.projector_hidden_act,
            config.multimodal_projector_bias,
        )
        self.finish()

    @property
    def tower(self) -> nn.Module:
        return self.vision_tower

    @property
    def projector(self) -> nn.Module:
        return self.multi_modal_projector

    @property
    def feature_size(self) -> int:
        return self.vision_tower.width
