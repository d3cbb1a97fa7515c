"""The flat ``config.json`` that versions 2.0, 2.5 and 2.6 share."""

from __future__ import annotations

from typing import Any, ClassVar

from transformers.models.idefics2.configuration_idefics2 import Idefics2VisionConfig

from polylens.errors import InputError
from polylens.modeling.configuration import FileConfig
from polylens_minicpmv.versions import MODEL_TYPE

HEAD_DIM = 128
"""Of the resampler's attention."""

LANGUAGE_KEYS = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("num_key_value_heads", "hidden_act", "max_position_embeddings", "initializer_range", "rms_norm_eps"),
    *("attention_dropout", "tie_word_embeddings", "bos_token_id", "eos_token_id", "rope_theta"),
)

SIGLIP_SO400M_980: dict[str, Any] = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "image_size": 980,
    "patch_size": 14,
}
"""The published tower of versions 2.5 and 2.6."""


class MiniCPMVConfig(FileConfig):
    """What ``config.json`` says; a version adds its own keys and their published values."""

    model_type = MODEL_TYPE
    architecture: ClassVar[str] = "MiniCPMV"
    hidden_keys: ClassVar[tuple[str, ...]] = ("rope_scaling",)
    language_keys: ClassVar[tuple[str, ...]] = LANGUAGE_KEYS

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    max_position_embeddings: int
    rms_norm_eps: float
    rope_theta: float
    query_num: int
    initializer_range: float = 0.02
    hidden_act: str = "silu"
    attention_dropout: float = 0.0
    tie_word_embeddings: bool = False
    bos_token_id: int | None = None
    eos_token_id: int | None = None
    patch_size: int = 14
    image_size: int = 448
    slice_mode: bool = True

    @property
    def vision_dim(self) -> int:
        """Dimensions of the vision tower's features."""
        raise NotImplementedError

    @property
    def vision_heads(self) -> int:
        """Heads of the vision tower's attention."""
        raise NotImplementedError

    def check_sizes(self) -> None:
        """Whether the parts fit together.

        Raises:
            InputError: they do not.
        """
        if self.hidden_size % HEAD_DIM:
            raise InputError(f"config.json: hidden_size is {self.hidden_size}; it must be a multiple of {HEAD_DIM}")
        if self.vision_dim % self.vision_heads:
            raise InputError(
                f"config.json: the vision tower has {self.vision_dim} dimensions, which do not divide into "
                f"{self.vision_heads} heads"
            )

    def language_values(self) -> dict[str, Any]:
        """What the configuration of the language model is made of."""
        values = {name: getattr(self, name) for name in self.language_keys}
        return values | {"rope_scaling": self._rope_scaling, "attn_implementation": self._attn_implementation}


class NaViTConfig(MiniCPMVConfig):
    """What ``config.json`` says of the tower of versions 2.5 and 2.6, in ``vision_config``."""

    drop_vision_last_layer: bool = False
    batch_vision_input: bool = True

    @property
    def vision_values(self) -> dict[str, Any]:
        """Sizes of the tower, with all its layers."""
        return {**SIGLIP_SO400M_980, **(getattr(self, "vision_config", None) or {})}

    @property
    def vision_dim(self) -> int:
        return self.vision_values["hidden_size"]

    @property
    def vision_heads(self) -> int:
        return self.vision_values["num_attention_heads"]

    def vision_model(self) -> Idefics2VisionConfig:
        """The tower in terms of Idefics2, without the last layer if ``drop_vision_last_layer``."""
        given = self.vision_values
        names = (*SIGLIP_SO400M_980, "initializer_range", "attention_dropout", "layer_norm_eps", "hidden_act")
        values: dict[str, Any] = {name: given[name] for name in names if name in given}
        values["num_hidden_layers"] -= int(self.drop_vision_last_layer)
        values["attn_implementation"] = self._attn_implementation
        return Idefics2VisionConfig(**values)
