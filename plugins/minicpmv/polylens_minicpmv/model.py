"""MiniCPM-V 2.0, composed of transformers' Granite (whose arithmetic is MiniCPM's), a ViT and a resampler."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import GenerationMixin, GraniteForCausalLM, PreTrainedModel

from polylens.contracts import Batch, Outputs
from polylens.modeling.preprocessing import normalise
from polylens.modeling.vision import merge_visual_tokens, must_touch
from polylens_minicpmv.configuration import MiniCPMV2Config
from polylens_minicpmv.embedding import ScaledEmbedding
from polylens_minicpmv.initial_weights import initialise
from polylens_minicpmv.resampler import Resampler
from polylens_minicpmv.vision import VisionTower, patch_grid

MEAN = STD = (0.5, 0.5, 0.5)


class MiniCPMV2(PreTrainedModel, GenerationMixin):
    """One entry for training, encoding and scoring: ``forward(batch, outputs)``.

    Weights are reached only through their modules, and every forward calls the vision tower and the resampler once
    whatever the batch holds, so that ranks stay together under ZeRO-3.
    """

    config: MiniCPMV2Config
    config_class = MiniCPMV2Config
    supports_gradient_checkpointing = True
    _no_split_modules = ["Block", "Resampler", "GraniteDecoderLayer"]  # noqa: RUF012
    _supports_sdpa = True
    _supports_flash_attn = True  # in the language model; the tower and the resampler then take torch's own

    def __init__(self, config: MiniCPMV2Config) -> None:
        config.check_sizes()
        super().__init__(config)
        self.llm = GraniteForCausalLM(config.language_model())
        self.llm.model.embed_tokens = ScaledEmbedding(config.vocab_size, config.hidden_size, config.scale_emb)
        self.vpm = VisionTower(config)
        self.resampler = Resampler(config)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        initialise(module)

    def get_input_embeddings(self) -> nn.Module:
        return self.llm.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.llm.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return self.llm.lm_head

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        self.llm.set_output_embeddings(new_embeddings)

    def forward(
        self,
        batch: Batch,
        outputs: Collection[str] = frozenset({"hidden"}),
        logit_positions: Tensor | None = None,
        embed_ids: Tensor | None = None,
    ) -> Outputs:
        """What ``outputs`` names, field by field of ``Outputs``; parts that nothing asks for are not computed.

        Args:
            logit_positions: bool [B, T], where logits are wanted; everywhere by default.
            embed_ids: token ids of any shape, for ``embeddings``.
        """
        result = Outputs()
        if embed_ids is not None and "embeddings" in outputs:
            result.embeddings = self.llm.model.embed_tokens(embed_ids)
        features, grids = self._features(batch)
        if "vision" in outputs:
            result.vision = self._rows(features, grids, batch)
        if not {"connector", "hidden", "logits"}.isdisjoint(outputs):
            visual = self._visual_tokens(features, grids)
            result.connector = visual[: int(batch.crop_tokens.sum())] if "connector" in outputs else None
            if not {"hidden", "logits"}.isdisjoint(outputs):
                self._read(result, batch, visual, outputs, logit_positions)
        return result

    def generate(self, batch: Batch, **options: Any) -> Tensor:  # type: ignore[override]
        """Token ids that follow each row of a left-padded batch; ``options`` as in ``GenerationMixin.generate``.

        Raises:
            ValueError: a row ends with padding.
        """
        if not bool(batch.attention_mask[:, -1].all()):
            raise ValueError("generation needs a batch padded on the left")
        options.setdefault("generation_config", self.generation_config)
        embeddings = self._embeddings(batch, self._visual_tokens(*self._features(batch)))
        inputs = {"inputs_embeds": embeddings, "attention_mask": batch.attention_mask.long()}
        return self.llm.generate(**inputs, **options)  # type: ignore[misc]

    def _features(self, batch: Batch) -> tuple[Tensor | None, list[tuple[int, int]]]:
        """Features of the crops, padded to [N, L, D], and their grids: of an empty crop where there is none but the
        parts must be called, or nothing."""
        patch = self.config.patch_size
        if batch.features is not None:
            grids = [patch_grid(size, patch) for size in _crop_sizes(batch)]
            if grids:
                return pad_sequence(batch.features, batch_first=True), grids
            return self._empty_features()
        crops = self._crops(batch.pixels)
        if not crops:
            return None, []
        return self.vpm(crops), [patch_grid(crop.shape[-2:], patch) for crop in crops]

    def _crops(self, pixels: list[Tensor]) -> list[Tensor]:
        dtype = self.vpm.norm.weight.dtype
        if pixels or not must_touch(self.vpm, self.resampler):
            return [normalise(crop, MEAN, STD, dtype) for crop in pixels]
        side = self.config.patch_size
        return [torch.zeros(3, side, side, dtype=dtype, device=self.device)]

    def _empty_features(self) -> tuple[Tensor | None, list[tuple[int, int]]]:
        if not must_touch(self.resampler):
            return None, []
        dim = self.config.vision_sizes.hidden_size
        return torch.zeros(1, 1, dim, dtype=self.resampler.ln_kv.weight.dtype, device=self.device), [(1, 1)]

    def _rows(self, features: Tensor | None, grids: list[tuple[int, int]], batch: Batch) -> list[Tensor]:
        if features is None or not len(batch.crop_rows):
            return []
        return [row[: height * width] for row, (height, width) in zip(features, grids, strict=True)]

    def _visual_tokens(self, features: Tensor | None, grids: list[tuple[int, int]]) -> Tensor:
        """[V, D]; of an empty crop where the batch has none."""
        if features is None:
            weight = self.resampler.ln_post.weight
            return weight.new_empty(0, self.config.hidden_size)
        return self.resampler(features, grids).flatten(0, 1)

    def _embeddings(self, batch: Batch, visual: Tensor) -> Tensor:
        embeddings = self.llm.model.embed_tokens(batch.input_ids)
        if len(batch.crop_rows):
            return merge_visual_tokens(embeddings, visual, batch.visual_mask)
        nothing = (visual.sum() * 0).to(embeddings.dtype)  # an unused tower gets zero gradients, not none
        return embeddings + nothing

    def _read(
        self, result: Outputs, batch: Batch, visual: Tensor, outputs: Collection[str], positions: Tensor | None
    ) -> None:
        """Run the language model and fill in ``hidden`` and ``logits``."""
        hidden = self.llm.model(
            inputs_embeds=self._embeddings(batch, visual),
            attention_mask=batch.attention_mask,
            position_ids=(batch.attention_mask.long().cumsum(dim=1) - 1).clamp(min=0),
            use_cache=False,
        ).last_hidden_state
        if "hidden" in outputs:
            result.hidden = hidden
        if "logits" in outputs:
            chosen = hidden.flatten(0, 1) if positions is None else hidden[positions]
            result.logits = self.llm.lm_head(chosen / self.config.logit_divisor)


def _crop_sizes(batch: Batch) -> list[tuple[int, int]]:
    if batch.crop_sizes is None:
        raise ValueError("a batch with features needs crop_sizes: the connector must know the shape of each crop")
    return [(height, width) for height, width in batch.crop_sizes.tolist()]
