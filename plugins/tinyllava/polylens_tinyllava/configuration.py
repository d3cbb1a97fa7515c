"""``config.json`` of TinyLLaVA, and the configurations of its parts, which it holds itself.

The original asks the hub for the configuration of the language model by its name, and picks its class by a substring
of that name; here the class follows from ``text_config.model_type`` and nothing is asked for.
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

MOF = "mof"
DINOV2: dict[str, dict[str, Any]] = {
    "dinov2-small": {"hidden_size": 384, "num_attention_heads": 6},
    "dinov2-base": {"hidden_size": 768, "num_attention_heads": 12},
    "dinov2-large": {"hidden_size": 1024, "num_attention_heads": 16, "num_hidden_layers": 24},
}
"""Published towers that a mixture of features may name: the original's file holds no sizes of its second tower."""


class PartsConfig(FileConfig):
    """What the layouts share: sub-configurations of a language model and of a vision tower.

    Attributes:
        text_values, vision_values: the sub-configurations as the file holds them.
    """

    hidden_keys: ClassVar[tuple[str, ...]] = ("text_config", "vision_config", "vision_config2")
    _text_config: dict[str, Any] | None
    _vision_config: dict[str, Any] | None
    _vision_config2: dict[str, Any] | None

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
        values = {**self.usual["text_config"], **_required(self._text_config, "text_config")}
        kind = values.get("model_type")
        if kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
            raise InputError(
                f"config.json: /text_config/model_type is {kind!r}, and transformers has no causal language model of "
                f"that type{closest(str(kind), list(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES))}; known are phi, llama, "
                "stablelm, gemma, qwen2 and all others that AutoModelForCausalLM makes"
            )
        return _sub_config(values, self._attn_implementation)

    def vision(self) -> PreTrainedConfig:
        """Configuration of the vision tower, the first one of a mixture.

        Raises:
            InputError: it is none that can be used.
        """
        values = {**self.usual["vision_config"], **_required(self._vision_config, "vision_config")}
        if values.get("model_type") not in TOWERS:
            raise InputError(
                f"config.json: /vision_config/model_type is {values.get('model_type')!r}; it may be "
                f"{', '.join(TOWERS)}"
            )
        return _sub_config(values, self._attn_implementation)

    def second_vision(self) -> PreTrainedConfig:
        """Configuration of the DINOv2 of a mixture of features.

        It is in ``vision_config2``, or follows from the published name in ``vision_config/model_name_or_path2``.

        Raises:
            InputError: neither is there.
        """
        named = str(_required(self._vision_config, "vision_config").get("model_name_or_path2") or "")
        published = DINOV2.get(named.rstrip("/").rpartition("/")[2])
        if self._vision_config2 is None and published is None:
            raise InputError(
                f"config.json: the second tower of this mixture is named {named!r}, and nothing says its sizes: put "
                "its own config.json in as /vision_config2"
            )
        values = self._vision_config2 or {"image_size": 518, "patch_size": 14, **(published or {})}
        return _sub_config({**values, "model_type": "dinov2"}, self._attn_implementation)

    @property
    def tower(self) -> str:
        """``siglip``, ``clip``, ``dinov2`` or ``mof``."""
        values = {**self.usual["vision_config"], **(self._vision_config or {})}
        if str(values.get("model_name_or_path", "")).startswith(f"{MOF}:") or self._vision_config2 is not None:
            return MOF
        return TOWERS.get(str(values.get("model_type")), "")


class TinyLlavaConfig(PartsConfig):
    """The flat layout's ``config.json``, which names its model ``tinyllava``.

    Keys of our own: ``vision_config2`` (the DINOv2 of a mixture) and ``qformer_config`` (where its sizes are not those
    of BERT base).
    """

    model_type = "tinyllava"
    architecture: ClassVar[str] = "TinyLlavaForConditionalGeneration"
    hidden_keys: ClassVar[tuple[str, ...]] = (*PartsConfig.hidden_keys, "qformer_config")
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


class LlavaHfConfig(PartsConfig):
    """``config.json`` of transformers' LLaVA, which names its model ``llava``."""

    model_type = "llava"
    architecture: ClassVar[str] = "LlavaForConditionalGeneration"

    usual: ClassVar[dict[str, dict[str, Any]]] = {
        "text_config": {"model_type": "llama"},
        "vision_config": {"model_type": "clip_vision_model"},
    }

    vision_feature_select_strategy: str = "default"
    projector_hidden_act: str = "gelu"
    multimodal_projector_bias: bool = True


def read_config(values: Mapping[str, Any]) -> TinyLlavaConfig | LlavaHfConfig:
    """The configuration of either layout, of the content of ``config.json``."""
    return (LlavaHfConfig if values.get("model_type") == LlavaHfConfig.model_type else TinyLlavaConfig)(**values)


def _required(values: dict[str, Any] | None, name: str) -> dict[str, Any]:
    if not isinstance(values, dict):
        raise InputError(f"config.json: /{name} is missing; it must hold the configuration of that part")
    return values


def _sub_config(values: Mapping[str, Any], attention: str | None) -> PreTrainedConfig:
    own = {key: value for key, value in values.items() if key not in ("_name_or_path", "transformers_version")}
    made: Any = CONFIG_MAPPING[own.pop("model_type")](**own)
    made._attn_implementation = attention
    return made
