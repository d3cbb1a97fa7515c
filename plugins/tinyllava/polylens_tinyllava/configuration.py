"""``config.json`` of TinyLLaVA, and the configurations of its parts, which it holds itself.

The original asks the hub for the configuration of the language model by its name, and picks its class by a substring
of that name; here the class follows from ``text_config.model_type`` and nothing is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from transformers import PreTrainedConfig

from polylens.errors import InputError
from polylens.modeling.parts import TOWERS, PartsConfig, TransformersPartsConfig, required, sub_config

MOF = "mof"
DINOV2: dict[str, dict[str, Any]] = {
    "dinov2-small": {"hidden_size": 384, "num_attention_heads": 6},
    "dinov2-base": {"hidden_size": 768, "num_attention_heads": 12},
    "dinov2-large": {"hidden_size": 1024, "num_attention_heads": 16, "num_hidden_layers": 24},
}
"""Published towers that a mixture of features may name: the original's file holds no sizes of its second tower."""


class MixtureConfig(PartsConfig):
    """What the layouts share: the tower may be a mixture of two."""

    hidden_keys: ClassVar[tuple[str, ...]] = ("text_config", "vision_config", "vision_config2")
    _vision_config2: dict[str, Any] | None

    def second_vision(self) -> PreTrainedConfig:
        """Configuration of the DINOv2 of a mixture of features.

        It is in ``vision_config2``, or follows from the published name in ``vision_config/model_name_or_path2``.

        Raises:
            InputError: neither is there.
        """
        named = str(required(self._vision_config, "vision_config").get("model_name_or_path2") or "")
        published = DINOV2.get(named.rstrip("/").rpartition("/")[2])
        if self._vision_config2 is None and published is None:
            raise InputError(
                f"config.json: the second tower of this mixture is named {named!r}, and nothing says its sizes: put "
                "its own config.json in as /vision_config2"
            )
        values = self._vision_config2 or {"image_size": 518, "patch_size": 14, **(published or {})}
        return sub_config({**values, "model_type": "dinov2"}, self._attn_implementation)

    @property
    def tower(self) -> str:
        """``siglip``, ``clip``, ``dinov2`` or ``mof``."""
        values = {**self.usual["vision_config"], **(self._vision_config or {})}
        if str(values.get("model_name_or_path", "")).startswith(f"{MOF}:") or self._vision_config2 is not None:
            return MOF
        return TOWERS.get(str(values.get("model_type")), "")


class TinyLlavaConfig(MixtureConfig):
    """The flat layout's ``config.json``, which names its model ``tinyllava``.

    Keys of our own: ``vision_config2`` (the DINOv2 of a mixture) and ``qformer_config`` (where its sizes are not those
    of BERT base).
    """

    model_type = "tinyllava"
    architecture: ClassVar[str] = "TinyLlavaForConditionalGeneration"
    hidden_keys: ClassVar[tuple[str, ...]] = (*MixtureConfig.hidden_keys, "qformer_config")
    _qformer_config: dict[str, Any] | None

    hidden_size: int = 2048
    vocab_size: int = 32000
    connector_type: str = "linear"
    num_queries: int | None = 128
    num_resampler_layers: int | None = 3
    image_aspect_ratio: str | None = "square"

    @property
    def qformer_values(self) -> Mapping[str, Any]:
        """Sizes of the Q-Former that differ from BERT base."""
        return self._qformer_config or {}


class LlavaHfConfig(TransformersPartsConfig, MixtureConfig):
    """``config.json`` of transformers' LLaVA, which names its model ``llava``."""

    model_type = "llava"
    architecture: ClassVar[str] = "LlavaForConditionalGeneration"


def read_config(values: Mapping[str, Any]) -> TinyLlavaConfig | LlavaHfConfig:
    """The configuration of either layout, of the content of ``config.json``."""
    return (LlavaHfConfig if values.get("model_type") == LlavaHfConfig.model_type else TinyLlavaConfig)(**values)
