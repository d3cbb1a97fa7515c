"""MiniCPM-V 4.6 and 4.7: transformers' own classes behind polylens' single entry.

The classes keep the names of their parents: ``config.json`` names them as architecture, so folders that polylens
writes load in transformers and elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.minicpmv4_6 import modeling_minicpmv4_6 as v4_6
from transformers.models.minicpmv4_7 import modeling_minicpmv4_7 as v4_7
from transformers.models.qwen3_5.modeling_qwen3_5 import Qwen3_5GatedDeltaNet

from polylens.contracts import Batch, Outputs
from polylens.modeling.preprocessing import normalise
from polylens.modeling.vision import Stage, in_chunks, merge_visual_tokens
from polylens_minicpmv.models.base import MEAN, STD
from polylens_minicpmv.vision.patches import CropFeatures, Grid, patch_grid, strips


class HeldConvolution(nn.Conv1d):
    """A convolution whose weight others read while they run inside a call of it: ZeRO-3 has gathered it then."""

    def forward(self, run: Callable[..., Tensor], *args: Any, **options: Any) -> Tensor:  # type: ignore[override]
        return run(*args, **options)


class GatedDeltaNet(Qwen3_5GatedDeltaNet):
    """Linear attention of Qwen3.5, which never calls its own convolution but takes its weight."""

    def __init__(self, config: Any, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        own = self.conv1d
        size, channels = own.kernel_size[0], own.in_channels
        self.conv1d = HeldConvolution(
            channels, channels, size, groups=own.groups, padding=size - 1, bias=own.bias is not None
        )

    def forward(self, *args: Any, **options: Any) -> Tensor:
        return self.conv1d(super().forward, *args, **options)


class Native:
    """What 4.6 and 4.7 share. The tower sees crops packed one behind the other, so nothing is padded.

    Attributes:
        vision_chunk_size: crops of one call of the tower and the merger; ``None`` is all of them.
    """

    vision_chunk_size: int | None = None
    model: Any
    lm_head: Any
    config: Any

    def __init__(self, config: Any) -> None:
        super().__init__(config)  # type: ignore[call-arg]
        for place, layer in enumerate(self.model.language_model.layers):
            if hasattr(layer, "linear_attn"):
                layer.linear_attn = GatedDeltaNet(config.text_config, place)
        self.post_init()  # type: ignore[attr-defined]

    def forward(
        self,
        batch: Batch | None = None,
        outputs: Collection[str] = frozenset({"hidden"}),
        logit_positions: Tensor | None = None,
        embed_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        mm_token_type_ids: Tensor | None = None,
        **inputs: Any,
    ) -> Any:
        """The fields of ``Outputs`` that were asked for; what none of them needs is not computed.

        Without a batch it is a step of generation: transformers looks for the names of its arguments here.

        Args:
            outputs: names of fields. ``vision`` is what the merger gets, a quarter of the patches of a crop each.
            logit_positions: bool [B, T]; all positions by default.
            embed_ids: token ids whose embeddings go into ``embeddings``.
        """
        if batch is None:
            inputs |= {"attention_mask": attention_mask, "position_ids": position_ids}
            inputs |= {} if mm_token_type_ids is None else {"mm_token_type_ids": mm_token_type_ids}
            return super().forward(**inputs)  # type: ignore[misc]
        embed, made = self.model.language_model.embed_tokens, Outputs()
        if embed_ids is not None and "embeddings" in outputs:
            made.embeddings = embed(embed_ids)
        items, stages = self._crops(batch)
        if "vision" in outputs:
            items, stages = in_chunks(items, stages[:-1], self.vision_chunk_size), stages[-1:]
            made.vision = [crop.states for crop in items[: len(batch.crop_rows)]]
        if not {"connector", "hidden", "logits"}.isdisjoint(outputs):
            visual = self._visual_tokens(batch, items, stages)
            made.connector = visual if "connector" in outputs else None
            if not {"hidden", "logits"}.isdisjoint(outputs):
                merged = merge_visual_tokens(embed(batch.input_ids), visual, batch.visual_mask)
                self._read(made, batch, merged, outputs, logit_positions)
        return made

    def head(self, hidden: Tensor) -> Tensor:
        """Logits [..., vocabulary] of hidden states [..., D]."""
        return self.lm_head(hidden)

    def generate(self, batch: Batch, **options: Any) -> Tensor:
        """Token ids that follow each row of a left-padded batch; ``options`` as in ``GenerationMixin.generate``.

        Raises:
            ValueError: a row ends with padding.
        """
        if not bool(batch.attention_mask[:, -1].all()):
            raise ValueError("generation needs a batch padded on the left")
        inputs: dict[str, Any] = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask.long()}
        inputs |= self._generation_inputs(batch)
        return super().generate(**inputs, **options)[:, batch.input_ids.shape[1] :]  # type: ignore[misc]

    def _generation_inputs(self, batch: Batch) -> dict[str, Any]:
        if not batch.pixels:
            return {}
        grids = [self._grid(crop.shape[-2:]) for crop in batch.pixels]
        return {"pixel_values": self._packed(batch.pixels), "target_sizes": torch.tensor(grids, dtype=torch.int32)}

    @property
    def _patch(self) -> int:
        return self.config.vision_config.patch_size

    @property
    def _halvings(self) -> int:
        """How often rows and columns are halved in the tower."""
        return 0 if self.config.downsample_mode == "4x" else 1

    def _grid(self, size: Sequence[int]) -> Grid:
        return patch_grid(size, self._patch)

    def _seen_grid(self, size: Sequence[int]) -> Grid:
        """Rows and columns of what the tower gives."""
        rows, columns = self._grid(size)
        return rows >> self._halvings, columns >> self._halvings

    def _packed(self, crops: Sequence[Tensor]) -> Tensor:
        """Patches of all crops side by side, [1, 3, patch, patch * L]."""
        dtype = self.model.merger.mlp[0].pre_norm.weight.dtype
        rows = [strips([normalise(crop, MEAN, STD, dtype)], self._patch) for crop in crops]
        return torch.cat(rows, dim=-1)

    def _crops(self, batch: Batch) -> tuple[Sequence[Any], tuple[Stage, ...]]:
        """Pixels or features of each crop, and the stages that they have yet to pass."""
        if batch.features is None:
            return batch.pixels, (self._tower_stage(), self._merger_stage())
        sizes = _crop_sizes(batch).tolist()
        pairs = zip(batch.features, map(self._seen_grid, sizes), strict=True)
        return [CropFeatures(*pair) for pair in pairs], (self._merger_stage(),)

    def _tower_stage(self) -> Stage:
        side = 2 ** (self._halvings + 1) * self._patch
        blank = torch.zeros(3, side, side, dtype=torch.uint8, device=self.lm_head.weight.device)
        return Stage(self._look, (self.model.vision_tower,), blank)

    def _merger_stage(self) -> Stage:
        weight = self.model.merger.mlp[0].pre_norm.weight
        states = torch.zeros(4, self.config.vision_config.hidden_size, dtype=weight.dtype, device=weight.device)
        return Stage(self._merge, (self.model.merger,), CropFeatures(states, (2, 2)))

    def _look(self, crops: Sequence[Tensor]) -> list[CropFeatures]:
        """The tower on uint8 crops."""
        sizes = torch.tensor([self._grid(crop.shape[-2:]) for crop in crops], dtype=torch.int32)
        seen = self.model.vision_tower(
            self._packed(crops), target_sizes=sizes.to(crops[0].device), use_vit_merger=self._halvings > 0
        ).last_hidden_state[0]
        grids = [self._seen_grid(crop.shape[-2:]) for crop in crops]
        parts = seen.split([rows * columns for rows, columns in grids])
        return [CropFeatures(*pair) for pair in zip(parts, grids, strict=True)]

    def _merge(self, crops: Sequence[CropFeatures]) -> Sequence[Tensor]:
        """Visual tokens of each crop. The merger itself calls its layers once a crop; here they are called once, so
        that ranks with other numbers of crops stay together under ZeRO-3."""
        rows, columns = self.config.merge_kernel_size
        parts, grids = [crop.states for crop in crops], [crop.grid for crop in crops]
        for layer in self.model.merger.mlp:
            windows = [_windows(part, grid, rows, columns) for part, grid in zip(parts, grids, strict=True)]
            parts = layer(torch.cat(windows)).split([len(own) for own in windows])
            grids = [(height // rows, width // columns) for height, width in grids]
        return parts

    def _visual_tokens(self, batch: Batch, items: Sequence[Any], stages: Sequence[Stage]) -> Tensor:
        """[V, D]. Tokens of blank crops are cut off, so that an unused tower gets zero gradients, not none."""
        tokens = in_chunks(items, stages, self.vision_chunk_size)
        if not tokens:
            weight, device = self.model.merger.mlp[0].pre_norm.weight, batch.input_ids.device
            return weight.new_empty(0, self.config.text_config.hidden_size, device=device)
        return torch.cat(tokens)[: int(batch.crop_tokens.sum())]

    def _positions(self, batch: Batch) -> Tensor:
        """Position ids of the language model: those of text, along a line."""
        return (batch.attention_mask.long().cumsum(dim=1) - 1).clamp(min=0)

    def _read(
        self, made: Outputs, batch: Batch, embeddings: Tensor, outputs: Collection[str], positions: Tensor | None
    ) -> None:
        """Run the language model and fill in ``hidden`` and ``logits``."""
        hidden = self.model.language_model(
            inputs_embeds=embeddings,
            attention_mask=batch.attention_mask.long(),
            position_ids=self._positions(batch),
            use_cache=False,
        ).last_hidden_state
        if "hidden" in outputs:
            made.hidden = hidden
        if "logits" in outputs:
            made.logits = self.head(hidden.flatten(0, 1) if positions is None else hidden[positions])


class MiniCPMV4_6ForConditionalGeneration(Native, v4_6.MiniCPMV4_6ForConditionalGeneration):
    """MiniCPM-V 4.6: SigLIP with a merger inside, another one behind it, and Qwen3.5."""


class MiniCPMV4_7ForConditionalGeneration(Native, v4_7.MiniCPMV4_7ForConditionalGeneration):
    """MiniCPM-V 4.7: as 4.6, but visual tokens and the marks around them have rotary positions on a canvas."""

    def _positions(self, batch: Batch) -> Tensor:
        positions, _ = self.model.get_rope_index(
            batch.input_ids,
            mm_token_type_ids=batch.visual_mask.int(),
            target_sizes=_crop_sizes(batch) // self._patch if len(batch.crop_rows) else None,
            attention_mask=batch.attention_mask,
        )
        return positions

    def _generation_inputs(self, batch: Batch) -> dict[str, Any]:
        self.model.rope_deltas = None  # of the conversation before
        return super()._generation_inputs(batch) | {"mm_token_type_ids": batch.visual_mask.int()}


def _windows(states: Tensor, grid: Grid, rows: int, columns: int) -> Tensor:
    """Vectors [L, D] of a crop, those of ``rows`` x ``columns`` neighbours behind one another: [L / n, n * D]."""
    cells = states.reshape(grid[0] // rows, rows, grid[1] // columns, columns, -1)
    return cells.transpose(1, 2).flatten(2).flatten(0, 1)


def _crop_sizes(batch: Batch) -> Tensor:
    if batch.crop_sizes is None:
        raise ValueError("the merger and the positions of visual tokens need Batch.crop_sizes")
    return batch.crop_sizes
