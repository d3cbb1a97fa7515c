"""MiniCPM-Llama3-V 2.5: SigLIP with positions along a line, one resampler, and Llama 3."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from polylens.contracts import Batch
from polylens_minicpmv.configuration import NaViTConfig
from polylens_minicpmv.models.base import MiniCPMVModel
from polylens_minicpmv.options import MiniCPMV25Options
from polylens_minicpmv.vision.navit import NaViT
from polylens_minicpmv.vision.patches import PatchCrop
from polylens_minicpmv.vision.resampler import Resampler


class MiniCPMV25Config(NaViTConfig):
    """Configuration of MiniCPM-Llama3-V 2.5; defaults are those of openbmb/MiniCPM-Llama3-V-2_5."""

    vocab_size: int = 128256
    hidden_size: int = 4096
    intermediate_size: int = 14336
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int = 8
    max_position_embeddings: int = 8192
    rms_norm_eps: float = 1e-5
    rope_theta: float = 500000.0
    bos_token_id: int | None = 128000
    eos_token_id: int | None = 128001
    query_num: int = 96

    def language_model(self) -> LlamaConfig:
        return LlamaConfig(**self.language_values())


class MiniCPMV25(MiniCPMVModel):
    """MiniCPM-Llama3-V 2.5 under the names of openbmb/MiniCPM-Llama3-V-2_5.

    The original's mask of patches is wrong: a crop attends to the blank patches that pad it to the longest crop of
    its batch, and its positions are stretched over all of them. Published weights learned to see so. Here the longest
    crop is that of the example, as it is in the original's ``chat``, so that no example depends on another one.

    Attributes:
        options: of the family; ``compat.attended_padding`` says whether it is so. The core sets them.
    """

    options: MiniCPMV25Options | None = None
    config: MiniCPMV25Config
    config_class = MiniCPMV25Config
    vpm: NaViT
    _no_split_modules = ["Idefics2EncoderLayer", "NaViTEmbeddings", "Resampler", "LlamaDecoderLayer"]  # noqa: RUF012

    def __init__(self, config: MiniCPMV25Config) -> None:
        super().__init__(config)
        self.llm = LlamaForCausalLM(config.language_model())
        self.vpm = NaViT(config.vision_model(), flat_positions=True)
        self.resampler = Resampler(config)
        self.post_init()

    @property
    def attends_padding(self) -> bool:
        """Whether crops see the padding up to the longest one of their example."""
        wanted = self.options.compat.attended_padding if self.options is not None else None
        return self.config.batch_vision_input if wanted is None else wanted

    def _lengths(self, batch: Batch) -> list[int]:
        own = super()._lengths(batch)
        if not self.attends_padding:
            return own
        rows, longest = batch.crop_rows.tolist(), defaultdict(int)
        for row, length in zip(rows, own, strict=True):
            longest[row] = max(longest[row], length)
        return [longest[row] for row in rows]

    def _see(self, crops: Sequence[PatchCrop]) -> Tensor:
        return self.vpm(crops)
