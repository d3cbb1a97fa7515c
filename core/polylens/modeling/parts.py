"""``config.json`` of a model of parts, which holds the configurations of its parts itself.

The class of the language model follows from ``text_config.model_type``; no name or path is searched for words, and
nothing is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from transformers import PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from polylens.errors import InputError, closest
from polylens.modeling.configuration import FileConfig

TOWERS = {"siglip_vision_model": "siglip", "clip_vision_model": "clip", "dinov2": "dinov2"}
"""Types of vision towers, and what they are called here."""


class PartsConfig(FileConfig):
    """Sub-configurations of a language model and of a vision tower."""

    hidden_keys: ClassVar[tuple[str, ...]] = ("text_config", "vision_config")
    _text_config: dict[str, Any] | None
    _vision_config: dict[str, Any] | None

    usual: ClassVar[dict[str, dict[str, Any]]] = {"text_config": {}, "vision_config": {}}
    """What sub-configurations leave out."""

    vision_feature_layer: int = -2
    vision_feature_select_strategy: str = "patch"
    tie_word_embeddings: bool = False  # the language model ties its own

    def text(self) -> PreTrainedConfig:
        """Configuration of the language model.

        Raises:
            InputError: transformers has no causal language model of its type.
        """
        values = {**self.usual["text_config"], **required(self._text_config, "text_config")}
        kind = values.get("model_type")
        if kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
            raise InputError(
                f"config.json: /text_config/model_type is {kind!r}, and transformers has no causal language model of "
                f"that type{closest(str(kind), list(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES))}; known are phi, llama, "
                "stablelm, gemma, qwen2 and all others that AutoModelForCausalLM makes"
            )
        return sub_config(values, self._attn_implementation)

    def vision(self) -> PreTrainedConfig:
        """Configuration of the vision tower, the first one of a mixture.

        Raises:
            InputError: it is none that can be used.
        """
        values = {**self.usual["vision_config"], **required(self._vision_config, "vision_config")}
        if values.get("model_type") not in TOWERS:
            raise InputError(
                f"config.json: /vision_config/model_type is {values.get('model_type')!r}; it may be "
                f"{', '.join(TOWERS)}"
            )
        return sub_config(values, self._attn_implementation)


class TransformersPartsConfig(PartsConfig):
    """``config.json`` of transformers' models of a tower, two linear layers and a language model."""

    usual: ClassVar[dict[str, dict[str, Any]]] = {
        "text_config": {"model_type": "llama"},
        "vision_config": {"model_type": "clip_vision_model"},
    }

    vision_feature_select_strategy: str = "default"
    projector_hidden_act: str = "gelu"
    multimodal_projector_bias: bool = True


def required(values: dict[str, Any] | None, name: str) -> dict[str, Any]:
    """A sub-configuration, which must be there."""
    if not isinstance(values, dict):
        raise InputError(f"config.json: /{name} is missing; it must hold the configuration of that part")
    return values


def sub_config(values: Mapping[str, Any], attention: str | None) -> PreTrainedConfig:
    """The configuration of a part, of the class that its ``model_type`` names."""
    own = {key: value for key, value in values.items() if key not in ("_name_or_path", "transformers_version")}
    made: Any = CONFIG_MAPPING[own.pop("model_type")](**own)
    made._attn_implementation = attention
    return made
