"""The flat ``config.json`` of MiniCPM-V 2.0."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transformers import GraniteConfig, PreTrainedConfig

from polylens.errors import InputError
from polylens_minicpmv.versions import MODEL_TYPE

SIGLIP_SO400M = "vit_so400m_patch14_siglip_384.webli"
VISION_KEY = "polylens_vision"
HEAD_DIM = 128
"""Of the resampler's attention."""

LANGUAGE_KEYS = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("num_key_value_heads", "hidden_act", "max_position_embeddings", "initializer_range", "rms_norm_eps"),
    *("attention_bias", "attention_dropout", "tie_word_embeddings", "bos_token_id", "eos_token_id"),
)

UNCHANGED = ("_source", "_loaded", "_rope_scaling", "_name_or_path", "architectures", "transformers_version")
"""What never goes from memory into the file: our own notes, the folder that the model came from, who wrote it."""


@dataclass(frozen=True, slots=True)
class VisionSizes:
    """Sizes of the vision tower.

    Attributes:
        image_size: side of the picture that the position table was made for, in pixels.
        num_hidden_layers: blocks of the tower before ``drop_vision_last_layer`` takes the last one away.
    """

    image_size: int = 384
    hidden_size: int = 1152
    intermediate_size: int = 4304
    num_attention_heads: int = 16
    num_hidden_layers: int = 27


def _own_sizes(given: Mapping[str, Any]) -> VisionSizes:
    names = VisionSizes.__slots__
    unknown = sorted(set(given).difference(names))
    if unknown:
        raise InputError(f"config.json: {VISION_KEY} has {', '.join(unknown)}; it may have {', '.join(names)}")
    return VisionSizes(**given)


class MiniCPMV2Config(PreTrainedConfig):
    """What ``config.json`` says, attribute by attribute; defaults are those of openbmb/MiniCPM-V-2.

    ``to_dict`` gives the file's content back, with what was changed since: transformers would drop generation
    settings, rename keys and leave out defaults, and other programs read these files too.
    """

    model_type = MODEL_TYPE
    keys_to_ignore_at_inference = ()

    vocab_size: int = 122753
    hidden_size: int = 2304
    intermediate_size: int = 5760
    num_hidden_layers: int = 40
    num_attention_heads: int = 36
    num_key_value_heads: int = 36
    hidden_act: str = "silu"
    max_position_embeddings: int = 4096
    initializer_range: float = 0.1
    rms_norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    attention_bias: bool = False
    attention_dropout: float = 0.0
    tie_word_embeddings: bool = False
    bos_token_id: int | None = 1
    eos_token_id: int | None = 2
    scale_emb: float | int = 12
    scale_depth: float = 1.4
    dim_model_base: int = 256
    vision_encoder: str = SIGLIP_SO400M
    drop_vision_last_layer: bool = True
    query_num: int = 64
    patch_size: int = 14
    image_size: int = 448
    scale_resolution: int = 448
    slice_mode: bool = True
    max_slice_nums: int = 9

    def __init__(self, **values: Any) -> None:
        source = copy.deepcopy(values)
        self._rope_scaling = values.pop("rope_scaling", None)
        for name in ("_source", "_loaded"):
            values.pop(name, None)
        super().__init__(**values)
        self._source = source
        self._loaded = super().to_dict()

    @property
    def vision_sizes(self) -> VisionSizes:
        """Sizes of the vision tower: of the published one by its name, of another by ``polylens_vision``.

        Raises:
            InputError: the tower is neither.
        """
        given = getattr(self, VISION_KEY, None)
        if given is not None:
            return _own_sizes(given)
        if self.vision_encoder == SIGLIP_SO400M:
            return VisionSizes()
        raise InputError(
            f"config.json: vision_encoder is {self.vision_encoder!r}, whose size is not known; allowed is "
            f"{SIGLIP_SO400M!r}, or any name with the sizes in {VISION_KEY!r}: {', '.join(VisionSizes.__slots__)}"
        )

    def check_sizes(self) -> None:
        """Whether the parts fit together.

        Raises:
            InputError: they do not.
        """
        if self.hidden_size % HEAD_DIM:
            raise InputError(f"config.json: hidden_size is {self.hidden_size}; it must be a multiple of {HEAD_DIM}")
        if math.isqrt(self.query_num) ** 2 != self.query_num:
            raise InputError(f"config.json: query_num is {self.query_num}; it must be the square of a whole number")
        vision = self.vision_sizes
        if vision.hidden_size % vision.num_attention_heads:
            raise InputError(
                f"config.json: the vision tower has {vision.hidden_size} dimensions, which do not divide into "
                f"{vision.num_attention_heads} heads"
            )

    @property
    def logit_divisor(self) -> float:
        """Hidden states are divided by this before the output head."""
        return self.hidden_size / self.dim_model_base

    def language_model(self) -> GraniteConfig:
        """The same language model in terms of Granite, whose arithmetic is MiniCPM's.

        Embeddings are scaled in the embedding module and logits in ``MiniCPMV2``, because visual tokens are not
        scaled and the division comes before the head.
        """
        values = {name: getattr(self, name) for name in LANGUAGE_KEYS}
        values |= {"rope_theta": self.rope_theta, "rope_scaling": self._rope_scaling}
        values |= {"attn_implementation": self._attn_implementation}
        return GraniteConfig(
            **values,
            embedding_multiplier=1.0,
            residual_multiplier=self.scale_depth / math.sqrt(self.num_hidden_layers),
            attention_multiplier=(self.hidden_size // self.num_attention_heads) ** -0.5,
            logits_scaling=self.logit_divisor,
        )

    def to_dict(self) -> dict[str, Any]:
        """The file's content, with what was changed since it was read.

        ``architectures`` stays what the file says: it names the class of the original, which other programs look for.
        """
        current = super().to_dict()
        for name in UNCHANGED:
            current.pop(name, None)
        if not hasattr(self, "_loaded"):
            return current
        changed = {key: value for key, value in current.items() if self._loaded.get(key) != value}
        if "torch_dtype" in self._source and "dtype" in changed:
            changed["torch_dtype"] = changed.pop("dtype")
        result = {"architectures": ["MiniCPMV"], "model_type": MODEL_TYPE, **copy.deepcopy(self._source), **changed}
        return {key: value for key, value in result.items() if key != "attn_implementation"}

    def to_diff_dict(self) -> dict[str, Any]:
        """The same as ``to_dict``: nothing that the file said is left out."""
        return self.to_dict()
