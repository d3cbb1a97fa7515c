"""What all versions share: crops through tower and resampler, and a language model over the merged sequence."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedModel

from polylens.contracts import Batch, Outputs
from polylens.modeling.preprocessing import normalise
from polylens.modeling.vision import Stage, in_chunks, merge_visual_tokens
from polylens_minicpmv.configuration import MiniCPMVConfig
from polylens_minicpmv.vision.initial_weights import initialise
from polylens_minicpmv.vision.patches import CropFeatures, Grid, PaddedFeatures, PatchCrop, patch_grid
from polylens_minicpmv.vision.resampler import Resampler

MEAN = STD = (0.5, 0.5, 0.5)


class MiniCPMVModel(PreTrainedModel, GenerationMixin):
    """A MiniCPM-V: the base of the versions, which set ``llm``, ``vpm`` and ``resampler``.

    One entry for training, encoding and scoring: ``forward(batch, outputs)``.

    Weights are reached only through their modules, and every forward calls the vision tower and the resampler once
    (or once a chunk, as often as any rank) whatever the batch holds, so that ranks stay together under ZeRO-3.

    Attributes:
        vision_chunk_size: crops of one call of the tower and the resampler; ``None`` is all of them.
    """

    vision_chunk_size: int | None = None
    config: MiniCPMVConfig
    llm: Any
    vpm: nn.Module
    resampler: Resampler
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True  # in parts of transformers; the others then take torch's own

    def __init__(self, config: MiniCPMVConfig) -> None:
        config.check_sizes()
        super().__init__(config)

    def _see(self, crops: Sequence[PatchCrop]) -> Tensor:
        """The tower on normalised crops: [N, L, D_vision], at least as long as the longest crop."""
        raise NotImplementedError

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
        items, stages = self._crops(batch)
        if "vision" in outputs:
            items, stages = in_chunks(items, stages[:-1], self.vision_chunk_size), stages[-1:]
            result.vision = [crop.states for crop in items[: len(batch.crop_rows)]]
        if not {"connector", "hidden", "logits"}.isdisjoint(outputs):
            visual = self._visual_tokens(batch, items, stages)
            result.connector = visual if "connector" in outputs else None
            if not {"hidden", "logits"}.isdisjoint(outputs):
                self._read(result, batch, visual, outputs, logit_positions)
        return result

    def head(self, hidden: Tensor) -> Tensor:
        """Logits [..., vocabulary] of hidden states [..., D]."""
        return self.llm.lm_head(hidden)

    def generate(self, batch: Batch, **options: Any) -> Tensor:  # type: ignore[override]
        """Token ids that follow each row of a left-padded batch; ``options`` as in ``GenerationMixin.generate``.

        Raises:
            ValueError: a row ends with padding.
        """
        if not bool(batch.attention_mask[:, -1].all()):
            raise ValueError("generation needs a batch padded on the left")
        options.setdefault("generation_config", self.generation_config)
        embeddings = self._embeddings(batch, self._visual_tokens(batch, *self._crops(batch)))
        inputs = {"inputs_embeds": embeddings, "attention_mask": batch.attention_mask.long()}
        return self.llm.generate(**inputs, **options)

    def _crops(self, batch: Batch) -> tuple[Sequence[Any], tuple[Stage, ...]]:
        """Pixels or features of each crop, and the stages that they have yet to pass."""
        if batch.features is None:
            crops = map(PatchCrop, batch.pixels, self._lengths(batch))
            return list(crops), (self._tower_stage(), self._connector_stage())
        pairs = zip(batch.features, self._grids(_crop_sizes(batch)), strict=True)
        return [CropFeatures(*pair) for pair in pairs], (self._connector_stage(),)

    def _lengths(self, batch: Batch) -> list[int]:
        """How many patches long the tower sees each crop: its own patches."""
        return [rows * columns for rows, columns in self._grids(crop.shape[-2:] for crop in batch.pixels)]

    def _tower_stage(self) -> Stage:
        side = self.config.patch_size
        blank = PatchCrop(torch.zeros(3, side, side, dtype=torch.uint8, device=self.device), 1)
        return Stage(self._look, (self.vpm,), blank, length=lambda crop: crop.length)

    def _connector_stage(self) -> Stage:
        dim, dtype = self.config.vision_dim, self.resampler.ln_kv.weight.dtype
        blank = CropFeatures(torch.zeros(1, dim, dtype=dtype, device=self.device), (1, 1))
        return Stage(self._resample, (self.resampler,), blank, length=lambda crop: len(crop.states))

    def _look(self, crops: Sequence[PatchCrop]) -> PaddedFeatures:
        """The tower on uint8 crops; behind the longest one its features are cut off."""
        dtype = self.resampler.ln_kv.weight.dtype
        states = self._see([PatchCrop(normalise(crop.pixels, MEAN, STD, dtype), crop.length) for crop in crops])
        grids = self._grids(crop.pixels.shape[-2:] for crop in crops)
        return PaddedFeatures(states[:, : max(rows * columns for rows, columns in grids)], grids)

    def _resample(self, crops: Sequence[CropFeatures]) -> Sequence[Tensor]:
        """Visual tokens [query_num, D] of each crop."""
        padded = crops if isinstance(crops, PaddedFeatures) else PaddedFeatures.of(crops)
        return self.resampler(padded.states, padded.grids).unbind()

    def _grids(self, sizes: Iterable[Sequence[int]]) -> list[Grid]:
        return [patch_grid(size, self.config.patch_size) for size in sizes]

    def _visual_tokens(self, batch: Batch, items: Sequence[Any], stages: Sequence[Stage]) -> Tensor:
        """[V, D]. Tokens of blank crops are cut off, so that an unused tower gets zero gradients, not none."""
        tokens = in_chunks(items, stages, self.vision_chunk_size)
        if not tokens:
            weight, device = self.resampler.ln_post.weight, batch.input_ids.device
            return weight.new_empty(0, self.config.hidden_size, device=device)  # a weight may lie elsewhere
        return torch.cat(tokens)[: int(batch.crop_tokens.sum())]

    def _embeddings(self, batch: Batch, visual: Tensor) -> Tensor:
        return merge_visual_tokens(self.llm.model.embed_tokens(batch.input_ids), visual, batch.visual_mask)

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
            result.logits = self.head(chosen)


def _crop_sizes(batch: Batch) -> list[tuple[int, int]]:
    if batch.crop_sizes is None:
        raise ValueError("a batch with features needs crop_sizes: the connector must know the shape of each crop")
    return [(height, width) for height, width in batch.crop_sizes.tolist()]
