"""MiniCPM-V 2.0: SigLIP's ViT, one resampler, and MiniCPM, whose arithmetic is that of transformers' Granite."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn
from transformers import GraniteConfig, GraniteForCausalLM

from polylens.errors import InputError
from polylens_minicpmv.configuration import LANGUAGE_KEYS, MiniCPMVConfig
from polylens_minicpmv.models.base import MiniCPMVModel
from polylens_minicpmv.vision.patches import PatchCrop
from polylens_minicpmv.vision.resampler import Resampler
from polylens_minicpmv.vision.vit import VisionTower

SIGLIP_SO400M = "vit_so400m_patch14_siglip_384.webli"
VISION_KEY = "polylens_vision"


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


class MiniCPMV2Config(MiniCPMVConfig):
    """Configuration of MiniCPM-V 2.0; defaults are those of openbmb/MiniCPM-V-2."""

    language_keys: ClassVar[tuple[str, ...]] = (*LANGUAGE_KEYS, "attention_bias")

    vocab_size: int = 122753
    hidden_size: int = 2304
    intermediate_size: int = 5760
    num_hidden_layers: int = 40
    num_attention_heads: int = 36
    num_key_value_heads: int = 36
    max_position_embeddings: int = 4096
    initializer_range: float = 0.1
    rms_norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    attention_bias: bool = False
    bos_token_id: int | None = 1
    eos_token_id: int | None = 2
    scale_emb: float | int = 12
    scale_depth: float = 1.4
    dim_model_base: int = 256
    vision_encoder: str = SIGLIP_SO400M
    drop_vision_last_layer: bool = True
    query_num: int = 64
    scale_resolution: int = 448
    max_slice_nums: int = 9

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

    @property
    def vision_dim(self) -> int:
        return self.vision_sizes.hidden_size

    @property
    def vision_heads(self) -> int:
        return self.vision_sizes.num_attention_heads

    def check_sizes(self) -> None:
        super().check_sizes()
        if math.isqrt(self.query_num) ** 2 != self.query_num:
            raise InputError(f"config.json: query_num is {self.query_num}; it must be the square of a whole number")

    @property
    def logit_divisor(self) -> float:
        """Hidden states are divided by this before the output head."""
        return self.hidden_size / self.dim_model_base

    def language_model(self) -> GraniteConfig:
        """The same language model in terms of Granite.

        Embeddings are scaled in the embedding module and logits in ``MiniCPMV2``, because visual tokens are not
        scaled and the division comes before the head.
        """
        return GraniteConfig(
            **self.language_values(),
            embedding_multiplier=1.0,
            residual_multiplier=self.scale_depth / math.sqrt(self.num_hidden_layers),
            attention_multiplier=(self.hidden_size // self.num_attention_heads) ** -0.5,
            logits_scaling=self.logit_divisor,
        )


def _own_sizes(given: Mapping[str, Any]) -> VisionSizes:
    names = VisionSizes.__slots__
    unknown = sorted(set(given).difference(names))
    if unknown:
        raise InputError(f"config.json: {VISION_KEY} has {', '.join(unknown)}; it may have {', '.join(names)}")
    return VisionSizes(**given)


class ScaledEmbedding(nn.Embedding):
    """Embeddings times ``scale``. The factor lies in the module, so that training and every step of generation
    apply it to text, and visual tokens, which the original does not scale, never meet it."""

    def __init__(self, tokens: int, dim: int, scale: float) -> None:
        super().__init__(tokens, dim)
        self.scale = scale

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) * self.scale


class MiniCPMV2(MiniCPMVModel):
    """MiniCPM-V 2.0 under the names of openbmb/MiniCPM-V-2."""

    config: MiniCPMV2Config
    config_class = MiniCPMV2Config
    vpm: VisionTower
    _no_split_modules = ["Block", "Resampler", "GraniteDecoderLayer"]  # noqa: RUF012

    def __init__(self, config: MiniCPMV2Config) -> None:
        super().__init__(config)
        self.llm = GraniteForCausalLM(config.language_model())
        self.llm.model.embed_tokens = ScaledEmbedding(config.vocab_size, config.hidden_size, config.scale_emb)
        self.vpm = VisionTower(config)
        self.resampler = Resampler(config, query_positions=True)
        self.post_init()

    def _see(self, crops: Sequence[PatchCrop]) -> Tensor:
        return self.vpm([crop.pixels for crop in crops])

    def head(self, hidden: Tensor) -> Tensor:
        return self.llm.lm_head(hidden / self.config.logit_divisor)
