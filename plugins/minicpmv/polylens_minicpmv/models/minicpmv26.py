"""MiniCPM-V 2.6: SigLIP with two-dimensional positions, one resampler, and Qwen2."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor
from transformers import Qwen2Config, Qwen2ForCausalLM

from polylens_minicpmv.configuration import LANGUAGE_KEYS, NaViTConfig
from polylens_minicpmv.models.base import MiniCPMVModel
from polylens_minicpmv.vision.navit import NaViT
from polylens_minicpmv.vision.patches import PatchCrop
from polylens_minicpmv.vision.resampler import Resampler


class MiniCPMV26Config(NaViTConfig):
    """Configuration of MiniCPM-V 2.6; defaults are those of openbmb/MiniCPM-V-2_6."""

    language_keys: ClassVar[tuple[str, ...]] = (
        *LANGUAGE_KEYS,
        *("use_sliding_window", "sliding_window", "max_window_layers"),
    )

    vocab_size: int = 151666
    hidden_size: int = 3584
    intermediate_size: int = 18944
    num_hidden_layers: int = 28
    num_attention_heads: int = 28
    num_key_value_heads: int = 4
    max_position_embeddings: int = 32768
    rms_norm_eps: float = 1e-6
    rope_theta: float = 1000000.0
    use_sliding_window: bool = False
    sliding_window: int | None = 131072
    max_window_layers: int = 28
    bos_token_id: int | None = 151643
    eos_token_id: int | None = 151645
    query_num: int = 64
    use_image_id: bool = True

    def language_model(self) -> Qwen2Config:
        return Qwen2Config(**self.language_values())


class MiniCPMV26(MiniCPMVModel):
    """MiniCPM-V 2.6 under the names of openbmb/MiniCPM-V-2_6."""

    config: MiniCPMV26Config
    config_class = MiniCPMV26Config
    vpm: NaViT
    _no_split_modules = ["Idefics2EncoderLayer", "NaViTEmbeddings", "Resampler", "Qwen2DecoderLayer"]  # noqa: RUF012

    def __init__(self, config: MiniCPMV26Config) -> None:
        super().__init__(config)
        self.llm = Qwen2ForCausalLM(config.language_model())
        self.vpm = NaViT(config.vision_model())
        self.resampler = Resampler(config)
        self.post_init()

    def _see(self, crops: Sequence[PatchCrop]) -> Tensor:
        return self.vpm(crops)
