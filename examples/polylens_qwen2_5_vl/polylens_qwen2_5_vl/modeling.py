"""transformers' Qwen2.5-VL behind polylens' single entry.

The class keeps the name of its parent: it is what ``config.json`` names as architecture, so folders that polylens
writes load in transformers and elsewhere.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl as qwen
from transformers.vision_utils import get_vision_window_index

from polylens.contracts import Batch, Outputs
from polylens.modeling.preprocessing import normalise
from polylens.modeling.vision import Stage, in_chunks, merge_visual_tokens
from polylens_qwen2_5_vl import FACTOR, FRAMES, MERGE, PATCH

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
"""Of the pictures that CLIP was trained on; per channel, in the range 0 to 1."""


_STEP = ("input_ids", "inputs_embeds", "attention_mask", "position_ids", "past_key_values", "use_cache")
"""What a step of generation gives the language model."""


class Seen(NamedTuple):
    """What becomes of a crop.

    Attributes:
        tokens: visual tokens [V, D].
        features: what the merger makes them of, [4 V, D_vision], four patches of a token after each other.
    """

    tokens: Tensor
    features: Tensor | None


class Qwen2_5_VLForConditionalGeneration(qwen.Qwen2_5_VLForConditionalGeneration):
    """Qwen2.5-VL whose only entry takes a batch; modules and weights are those of the parent.

    Attributes:
        vision_chunk_size: crops of one call of the vision tower; ``None`` is all of them.
    """

    vision_chunk_size: int | None = None

    def forward(  # type: ignore[override]
        self,
        batch: Batch | None = None,
        outputs: Collection[str] = frozenset({"hidden"}),
        logit_positions: Tensor | None = None,
        embed_ids: Tensor | None = None,
        **step: Any,
    ) -> Any:
        """The fields of ``Outputs`` that were asked for; what none of them needs is not computed.

        Without a batch it is a step of generation, which transformers asks for with its own arguments.

        Args:
            outputs: names of fields. ``vision`` is what the merger gets, [4 x tokens, D_vision] per crop, four patches
                of a token after each other.
            logit_positions: bool [B, T]; all positions by default.
            embed_ids: token ids whose embeddings go into ``embeddings``.
        """
        if batch is None:
            return self._step(**step)
        embed = self.get_input_embeddings()
        seen = in_chunks(*self._crops(batch, "vision" in outputs), self.vision_chunk_size)
        visual = self._visual_tokens(batch, seen)
        made = Outputs(
            vision=[crop.features for crop in seen[: len(batch.crop_rows)]] if "vision" in outputs else None,
            connector=visual if "connector" in outputs else None,
            embeddings=embed(embed_ids) if "embeddings" in outputs else None,
        )
        if {"hidden", "logits"} & set(outputs):
            hidden = self._read(batch, merge_visual_tokens(embed(batch.input_ids), visual, batch.visual_mask))
            made.hidden = hidden if "hidden" in outputs else None
            made.logits = self._logits(batch, hidden, logit_positions) if "logits" in outputs else None
        return made

    def generate(self, batch: Batch, **options: Any) -> Tensor:  # type: ignore[override]
        """Token ids that follow each row of a left-padded batch; ``options`` as in ``GenerationMixin.generate``.

        Raises:
            ValueError: a row ends with padding.
        """
        if not bool(batch.attention_mask[:, -1].all()):
            raise ValueError("generation needs a batch padded on the left")
        seen = in_chunks(*self._crops(batch, False), self.vision_chunk_size)
        visual = self._visual_tokens(batch, seen)
        embeddings = merge_visual_tokens(self.get_input_embeddings()(batch.input_ids), visual, batch.visual_mask)
        inputs = {"inputs_embeds": embeddings, "attention_mask": batch.attention_mask.long()}
        return super().generate(**inputs, position_ids=self._positions(batch), **options)  # type: ignore[return-value]

    def _step(self, **inputs: Any) -> CausalLMOutputWithPast:
        """Logits of the last position alone."""
        inputs = {name: inputs.get(name) for name in _STEP}
        read = self.model.language_model(**inputs)
        return CausalLMOutputWithPast(
            logits=self.head(read.last_hidden_state[:, -1:]), past_key_values=read.past_key_values
        )

    def _visual_tokens(self, batch: Batch, seen: Sequence[Seen]) -> Tensor:
        """[V, D], without those of blank crops."""
        width, device = self.model.language_model.config.hidden_size, batch.input_ids.device
        nothing = torch.empty(0, width, dtype=self.dtype, device=device)
        return torch.cat([crop.tokens for crop in seen] or [nothing])[: int(batch.crop_tokens.sum())]

    def _crops(self, batch: Batch, keep_features: bool) -> tuple[Sequence[Tensor], tuple[Stage]]:
        """Pixels or features of each crop, and what makes visual tokens of them.

        The tower is one stage together with its merger, whose weights alone are not worth computing it again.
        """
        tower = self.model.visual
        if batch.features is not None:
            blank = tower.merger.ln_q.weight.new_zeros((MERGE**2, tower.config.hidden_size))
            return batch.features, (Stage(self._merge, (tower.merger,), blank, light=(tower.merger,)),)
        blank = torch.zeros(3, FACTOR, FACTOR, dtype=torch.uint8, device=self.device)
        look = partial(self._look, keep_features=keep_features)
        return batch.pixels, (Stage(look, (tower,), blank, light=(tower.merger,)),)

    def _merge(self, features: Sequence[Tensor]) -> list[Seen]:
        tokens = self.model.visual.merger(torch.cat(list(features)))
        counts = [len(crop) // MERGE**2 for crop in features]
        return [Seen(*pair) for pair in zip(tokens.split(counts), features, strict=True)]

    def _look(self, crops: Sequence[Tensor], keep_features: bool) -> list[Seen]:
        """The tower on uint8 crops."""
        tower = self.model.visual
        sizes = torch.tensor([crop.shape[-2:] for crop in crops], device=crops[0].device)
        counts = (sizes.prod(dim=1) // FACTOR**2).tolist()
        seen = tower(torch.cat([self._patches(crop) for crop in crops]), grid_thw=_grids(sizes))
        tokens = seen.pooler_output.split(counts)
        if not keep_features:
            return [Seen(own, None) for own in tokens]
        index, _ = get_vision_window_index(_grids(sizes), MERGE, tower.window_size, PATCH)
        features = seen.last_hidden_state.unflatten(0, (-1, MERGE**2))[torch.argsort(index).to(sizes.device)]
        return [Seen(own, part.flatten(0, 1)) for own, part in zip(tokens, features.split(counts), strict=True)]

    def _patches(self, crop: Tensor) -> Tensor:
        """[patches, 3 x 2 x 14 x 14] of a uint8 picture [3, H, W]: the four patches of a token after each other, each
        one twice, since the tower sees a still picture as two frames."""
        values = normalise(crop, MEAN, STD, self.model.visual.patch_embed.proj.weight.dtype)
        values = values.unflatten(2, (-1, MERGE, PATCH)).unflatten(1, (-1, MERGE, PATCH))
        values = values.permute(1, 4, 2, 5, 0, 3, 6).unsqueeze(5)  # rows, columns, 2, 2, channels, 1, 14, 14
        return values.expand(-1, -1, -1, -1, -1, FRAMES, -1, -1).flatten(4).flatten(0, 3)

    def _read(self, batch: Batch, embeddings: Tensor) -> Tensor:
        """Hidden states [B, T, D]."""
        read = self.model.language_model(
            inputs_embeds=embeddings,
            attention_mask=batch.attention_mask,
            position_ids=self._positions(batch),  # type: ignore[arg-type]
            use_cache=False,
        )
        return read.last_hidden_state

    def _positions(self, batch: Batch) -> Tensor:
        """Multimodal rotary positions, int64 [3, B, T]."""
        positions, _ = self.model.get_rope_index(
            batch.input_ids,  # type: ignore[arg-type]
            mm_token_type_ids=batch.visual_mask.int(),  # type: ignore[arg-type]
            image_grid_thw=_grids(_crop_sizes(batch)),  # type: ignore[arg-type]
            attention_mask=batch.attention_mask,
        )
        return positions  # type: ignore[return-value]

    def _logits(self, batch: Batch, hidden: Tensor, positions: Tensor | None) -> Tensor:
        return self.head(hidden[torch.ones_like(batch.attention_mask) if positions is None else positions])

    def head(self, hidden: Tensor) -> Tensor:
        """Logits [..., vocabulary] of hidden states [..., D]."""
        return self.lm_head(hidden)


def _crop_sizes(batch: Batch) -> Tensor:
    if batch.crop_sizes is None:
        raise ValueError("the positions of visual tokens need Batch.crop_sizes")
    return batch.crop_sizes


def _grids(sizes: Tensor) -> Tensor:
    """int64 [N, 3]: frames (1, a still picture), rows and columns of patches, of heights and widths [N, 2]."""
    return nn.functional.pad(sizes // PATCH, (1, 0), value=1)
