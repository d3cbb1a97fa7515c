"""``config.json`` of LLaVA, in the original layout and in that of transformers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from transformers import PreTrainedConfig

from polylens.errors import InputError
from polylens.modeling.parts import PartsConfig, TransformersPartsConfig, sub_config
from polylens_llava_remgcl.recognition import LANGUAGE_MODELS, is_transformers
from polylens_llava_remgcl.towers import published_tower

_NOT_OF_TEXT = (
    "architectures",
    "freeze_mm_mlp_adapter",
    "freeze_mm_vision_resampler",
    "image_aspect_ratio",
    "image_grid_pinpoints",
    "image_crop_resolution",
    "image_split_resolution",
    "image_processor",
    "tokenizer_model_max_length",
    "tokenizer_padding_side",
    "tune_mm_mlp_adapter",
    "tune_mm_vision_resampler",
    "unfreeze_mm_vision_tower",
    "use_mm_proj",
    "vision_config",
)
"""What the file says beside the configuration of its language model; so does every key that begins with ``mm_``."""

_REFUSED = {
    "s2": "the tower would look at several scales",
    "mm_vision_resampler": "a resampler would lie before the projector",
}


class OriginalConfig(PartsConfig):
    """The original's file: keys of the language model, and keys that begin with ``mm_``.

    Keys of our own, both optional: ``vision_config`` (that of the tower, unless ``mm_vision_tower`` names a published
    CLIP) and ``image_processor`` (what its ``preprocessor_config.json`` says).
    """

    model_type = "llava"
    architecture: ClassVar[str] = "LlavaLlamaForCausalLM"
    hidden_keys: ClassVar[tuple[str, ...]] = ("vision_config", "tie_word_embeddings", "rope_scaling")

    mm_vision_tower: str | None = None
    mm_projector_type: str = "linear"
    mm_vision_select_layer: int = -2
    mm_vision_select_feature: str = "patch"
    mm_use_im_start_end: bool = False
    mm_patch_merge_type: str = "flat"
    image_aspect_ratio: str | None = "square"
    image_grid_pinpoints: list[list[int]] | None = None

    @property
    def vision_feature_layer(self) -> int:  # type: ignore[override]
        return self.mm_vision_select_layer

    @property
    def vision_feature_select_strategy(self) -> str:  # type: ignore[override]
        return self.mm_vision_select_feature

    def text_values(self) -> dict[str, Any]:
        """What the file says of its language model, but for its ``model_type``.

        Raises:
            InputError: the file asks for something that is not here.
        """
        said = self.to_dict()
        for key, what in _REFUSED.items():
            if said.get(key):
                raise InputError(f"config.json: /{key} is {said[key]!r}: {what}, which this family does not have")
        hidden = (*_NOT_OF_TEXT, "model_type", *([] if said.get("rope_scaling") else ["rope_scaling"]))
        return {key: value for key, value in said.items() if not key.startswith("mm_") and key not in hidden}

    def text(self) -> PreTrainedConfig:
        """Configuration of the language model, which lies flat in the file."""
        kind = LANGUAGE_MODELS[self.to_dict()["model_type"]]
        return sub_config({**self.text_values(), "model_type": kind}, self._attn_implementation)

    def vision_values(self) -> dict[str, Any]:
        """What is known of the vision tower.

        Raises:
            InputError: nothing says what it is, or it is no CLIP.
        """
        values = self._vision_config or published_tower(self.mm_vision_tower)
        if values is None:
            raise InputError(
                f"config.json: /mm_vision_tower is {self.mm_vision_tower!r}, which was not found, and nothing says "
                "its sizes: name the folder of the CLIP with the option vision_tower"
            )
        kind = values.get("model_type", "clip_vision_model")
        if kind != "clip_vision_model":
            raise InputError(f"config.json: the vision tower is of type {kind!r}; it may be clip_vision_model")
        return {**values, "model_type": kind}

    def vision(self) -> PreTrainedConfig:
        """Configuration of the vision tower."""
        return sub_config(self.vision_values(), self._attn_implementation)


class TransformersConfig(TransformersPartsConfig):
    """``config.json`` of transformers' LLaVA."""

    model_type = "llava"
    architecture: ClassVar[str] = "LlavaForConditionalGeneration"
    mm_use_im_start_end: ClassVar[bool] = False
    mm_patch_merge_type: ClassVar[str] = "flat"


def read_config(values: Mapping[str, Any]) -> OriginalConfig | TransformersConfig:
    """The configuration of either layout, of the content of ``config.json``."""
    return TransformersConfig(**values) if is_transformers(values) else OriginalConfig(**values)
