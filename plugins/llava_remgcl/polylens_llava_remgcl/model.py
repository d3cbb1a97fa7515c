"""LLaVA over transformers' classes: the language model, CLIP, and a projector between them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from polylens.errors import InputError
from polylens.modeling.connectors import build_connector
from polylens.modeling.parts_model import PartsModel, TransformersPartsModel
from polylens.modeling.towers import TransformersTower
from polylens_llava_remgcl.configuration import OriginalConfig, TransformersConfig, read_config

PROJECTORS = ("identity", "linear", "mlp1x_gelu to mlp99x_gelu")


class LlavaLlamaForCausalLM(PartsModel):
    """``language_model.*``, ``vision_tower.vision_model.*``, ``mm_projector.*``; named otherwise on disk."""

    config: OriginalConfig
    config_class = OriginalConfig

    def __init__(self, config: OriginalConfig) -> None:
        super().__init__(config)
        self.vision_tower = TransformersTower(config)
        text: Any = self.language_model.config
        self.mm_projector = projector_for(config.mm_projector_type, self.vision_tower.width, text.hidden_size)
        self.finish()

    @property
    def tower(self) -> nn.Module:
        return self.vision_tower

    @property
    def projector(self) -> nn.Module:
        return self.mm_projector

    @property
    def feature_size(self) -> int:
        return self.vision_tower.width


class LlavaForConditionalGeneration(TransformersPartsModel):
    """LLaVA in the layout of transformers."""

    config: TransformersConfig
    config_class = TransformersConfig


def projector_for(name: str, vision: int, hidden: int) -> nn.Module:
    """The projector that ``mm_projector_type`` names.

    Raises:
        InputError: there is none of that name.
    """
    found = build_connector(name, vision, hidden)
    if found is None:
        raise InputError(f"config.json: /mm_projector_type is {name!r}; it may be {', '.join(PROJECTORS)}")
    return found


def build(config: Mapping[str, Any]) -> PartsModel:
    """The model, without weights, for the content of ``config.json``."""
    read = read_config(config)
    if isinstance(read, TransformersConfig):
        return LlavaForConditionalGeneration(read)
    return LlavaLlamaForCausalLM(read)
