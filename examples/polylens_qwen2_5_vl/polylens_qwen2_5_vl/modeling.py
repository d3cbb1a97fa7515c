"""transformers' Qwen2.5-VL behind polylens' single entry.

The class keeps the name of its parent: it is what ``config.json`` names as architecture, so folders that polylens
writes load in transformers and elsewhere.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn
from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl as qwen
from transformers.vision_utils import get_vision_window_index

from polylens.contracts import Batch, Outputs
from polylens.modeling.preprocessing import normalise
from polylens.modeling.vision import merge_visual_tokens, must_touch
from polylens_qwen2_5_vl import FACTOR, FRAMES, MERGE, PATCH

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
"""Of the pictures that CLIP was trained on; per channel, in the range 0 to 1."""


class Qwen2_5_VLForConditionalGeneration(qwen.Qwen2_5_VLForConditionalGeneration):
    """Qwen2.5-VL whose only entry takes a batch; modules and weights are those of the parent."""

    def forward(  # type: ignore[override]
        self,
        batch: Batch,
        outputs: Collection[str] = frozenset({"hidden"}),
        logit_positions: Tensor | None = None,
        embed_ids: Tensor | None = None,
    ) -> Outputs:
        """The fields of ``Outputs`` that were asked for; what none of them needs is not computed.

        Args:
            outputs: names of fields. ``vision`` is what the merger gets, [4 x tokens, D_vision] per crop, four patches
                of a token after each other.
            logit_positions: bool [B, T]; all positions by default.
            embed_ids: token ids whose embeddings go into ``embeddings``.
        """
        embed = self.get_input_embeddings()
        embeddings = embed(batch.input_ids)
        visual, seen = self._see(batch, embeddings)
        made = Outputs(
            vision=self._features(batch, seen) if "vision" in outputs else None,
            connector=visual if "connector" in outputs else None,
            embeddings=embed(embed_ids) if "embeddings" in outputs else None,
        )
        if {"hidden", "logits"} & set(outputs):
            hidden = self._read(batch, merge_visual_tokens(embeddings, visual, batch.visual_mask))
            made.hidden = hidden if "hidden" in outputs else None
            made.logits = self._logits(batch, hidden, logit_positions) if "logits" in outputs else None
        return made

    def _see(self, batch: Batch, embeddings: Tensor) -> tuple[Tensor, Tensor | None]:
        """Visual tokens [V, D], and what the tower saw [4 V, D_vision] before the merger, window by window.

        A batch without pictures is given a blank one where the tower may not be left out, and its token is cut off
        again: the tower's weights get a gradient of zero.
        """
        tower = self.model.visual
        count = int(batch.crop_tokens.sum())
        nothing = embeddings.new_zeros((0, embeddings.shape[-1]))
        if batch.features is not None:
            blank = tower.merger.ln_q.weight.new_zeros((MERGE**2, tower.config.hidden_size))
            needed = batch.features or must_touch(tower.merger)
            return tower.merger(torch.cat(batch.features or [blank]))[:count] if needed else nothing, None
        if not batch.pixels and not must_touch(tower):
            return nothing, None
        blank = torch.zeros(3, FACTOR, FACTOR, dtype=torch.uint8, device=batch.input_ids.device)
        grids = self._grids(batch) if batch.pixels else batch.crop_tokens.new_tensor([[1, MERGE, MERGE]])
        seen = tower(torch.cat([self._patches(crop) for crop in batch.pixels or [blank]]), grid_thw=grids)
        return seen.pooler_output[:count], seen.last_hidden_state

    def _features(self, batch: Batch, seen: Tensor | None) -> list[Tensor]:
        """What the merger gets of each crop, in the order of its visual tokens."""
        if batch.features is not None:
            return batch.features
        if seen is None or not batch.pixels:
            return []
        index, _ = get_vision_window_index(self._grids(batch), MERGE, self.model.visual.window_size, PATCH)
        tokens = seen.unflatten(0, (-1, MERGE**2))[torch.argsort(index).to(seen.device)]
        return [part.flatten(0, 1) for part in tokens.split(batch.crop_tokens.tolist())]

    def _grids(self, batch: Batch) -> Tensor:
        """int64 [N, 3]: frames (1, a still picture), rows and columns of patches of each crop."""
        if batch.crop_sizes is None:
            raise ValueError("the positions of visual tokens need Batch.crop_sizes")
        return nn.functional.pad(batch.crop_sizes // PATCH, (1, 0), value=1)

    def _patches(self, crop: Tensor) -> Tensor:
        """[patches, 3 x 2 x 14 x 14] of a uint8 picture [3, H, W]: the four patches of a token after each other, each
        one twice, since the tower sees a still picture as two frames."""
        values = normalise(crop, MEAN, STD, self.model.visual.patch_embed.proj.weight.dtype)
        values = values.unflatten(2, (-1, MERGE, PATCH)).unflatten(1, (-1, MERGE, PATCH))
        values = values.permute(1, 4, 2, 5, 0, 3, 6).unsqueeze(5)  # rows, columns, 2, 2, channels, 1, 14, 14
        return values.expand(-1, -1, -1, -1, -1, FRAMES, -1, -1).flatten(4).flatten(0, 3)

    def _read(self, batch: Batch, embeddings: Tensor) -> Tensor:
        """Hidden states [B, T, D] under multimodal rotary positions."""
        positions, _ = self.model.get_rope_index(
            batch.input_ids,  # type: ignore[arg-type]
            mm_token_type_ids=batch.visual_mask.int(),  # type: ignore[arg-type]
            image_grid_thw=self._grids(batch),  # type: ignore[arg-type]
            attention_mask=batch.attention_mask,
        )
        read = self.model.language_model(
            inputs_embeds=embeddings,
            attention_mask=batch.attention_mask,
            position_ids=positions,  # type: ignore[arg-type]
            use_cache=False,
        )
        return read.last_hidden_state

    def _logits(self, batch: Batch, hidden: Tensor, positions: Tensor | None) -> Tensor:
        return self.lm_head(hidden[torch.ones_like(batch.attention_mask) if positions is None else positions])
