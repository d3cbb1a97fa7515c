"""A vision-language model of three parts that know nothing of each other: tower, connector, causal language model."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, GenerationMixin, PreTrainedConfig, PreTrainedModel

from polylens.contracts import Batch, Outputs
from polylens.modeling.preprocessing import normalise
from polylens.modeling.vision import Stage, in_chunks, merge_visual_tokens

SCALED = ("gemma", "gemma2")
"""Language models that transformers 4 fed with sqrt(width) times all embeddings, visual tokens included. The embedding
itself multiplies by it now, so visual tokens must be multiplied here."""


class ComposedModel(PreTrainedModel, GenerationMixin):
    """The base of such models; crops are squares of one size, and visual tokens stand in the place of image tokens.

    A subclass makes ``language_model`` with ``language_model_for``, and says which modules tower and connector are.

    Attributes:
        mean, std: of the pixels that the tower was trained on, per channel.
        vision_chunk_size: crops of one call of the tower and the connector; ``None`` is all of them.
    """

    vision_chunk_size: int | None = None
    mean: Sequence[float]
    std: Sequence[float]
    language_model: Any
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True

    @property
    def tower(self) -> nn.Module:
        """Makes features [N, L, D_vision] of normalised pixels [N, 3, H, W]."""
        raise NotImplementedError

    @property
    def projector(self) -> nn.Module:
        """The connector: whatever ``connect`` calls."""
        raise NotImplementedError

    @property
    def feature_size(self) -> int:
        """Width of the features."""
        raise NotImplementedError

    @property
    def side(self) -> int:
        """Side of a crop in pixels."""
        raise NotImplementedError

    def connect(self, features: Tensor) -> Tensor:
        """Visual tokens [N, V, D] of features [N, L, D_vision]."""
        return self.projector(features)

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.language_model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return self.language_model.get_output_embeddings()

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        self.language_model.set_output_embeddings(new_embeddings)

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
        made = Outputs()
        if embed_ids is not None and "embeddings" in outputs:
            made.embeddings = self.get_input_embeddings()(embed_ids)
        items, stages = self._crops(batch)
        if "vision" in outputs:
            items, stages = in_chunks(items, stages[:-1], self.vision_chunk_size), stages[-1:]
            made.vision = list(items[: len(batch.crop_rows)])
        if not {"connector", "hidden", "logits"}.isdisjoint(outputs):
            visual = self._visual_tokens(batch, items, stages)
            made.connector = visual if "connector" in outputs else None
            if not {"hidden", "logits"}.isdisjoint(outputs):
                self._read(made, batch, visual, outputs, logit_positions)
        return made

    def head(self, hidden: Tensor) -> Tensor:
        """Logits [..., vocabulary] of hidden states [..., D]."""
        return self.get_output_embeddings()(hidden)

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
        return self.language_model.generate(**inputs, **options)

    def _crops(self, batch: Batch) -> tuple[Sequence[Tensor], tuple[Stage, ...]]:
        """Pixels or features of each crop, and the stages that they have yet to pass."""
        dtype = next(self.tower.parameters()).dtype
        blank = torch.zeros(1, self.feature_size, dtype=dtype, device=self.device)
        connector = Stage(self._connect, (self.projector,), blank)
        if batch.features is not None:
            return batch.features, (connector,)
        blank = torch.zeros(3, self.side, self.side, dtype=torch.uint8, device=self.device)
        return batch.pixels, (Stage(self._look, (self.tower,), blank), connector)

    def _look(self, crops: Sequence[Tensor]) -> Sequence[Tensor]:
        dtype = next(self.tower.parameters()).dtype
        return self.tower(normalise(torch.stack(list(crops)), self.mean, self.std, dtype)).unbind()

    def _connect(self, crops: Sequence[Tensor]) -> Sequence[Tensor]:
        tokens = self.connect(torch.stack(list(crops)))
        if self.language_model.config.model_type in SCALED:
            tokens = tokens * tokens.shape[-1] ** 0.5
        return tokens.unbind()

    def _visual_tokens(self, batch: Batch, items: Sequence[Any], stages: Sequence[Stage]) -> Tensor:
        """[V, D]. Tokens of blank crops are cut off, so that an unused tower gets zero gradients, not none."""
        tokens = in_chunks(items, stages, self.vision_chunk_size)
        if not tokens:
            width = self.language_model.config.hidden_size
            return torch.empty(0, width, dtype=self.dtype, device=batch.input_ids.device)
        return torch.cat(tokens)[: int(batch.crop_tokens.sum())]

    def _embeddings(self, batch: Batch, visual: Tensor) -> Tensor:
        return merge_visual_tokens(self.get_input_embeddings()(batch.input_ids), visual, batch.visual_mask)

    def _read(
        self, made: Outputs, batch: Batch, visual: Tensor, outputs: Collection[str], positions: Tensor | None
    ) -> None:
        """Run the language model and fill in ``hidden`` and ``logits``."""
        hidden = self.language_model.base_model(
            inputs_embeds=self._embeddings(batch, visual),
            attention_mask=batch.attention_mask,
            position_ids=(batch.attention_mask.long().cumsum(dim=1) - 1).clamp(min=0),
            use_cache=False,
        ).last_hidden_state
        if "hidden" in outputs:
            made.hidden = hidden
        if "logits" in outputs:
            chosen = hidden.flatten(0, 1) if positions is None else hidden[positions]
            made.logits = self.head(chosen)


def language_model_for(config: PreTrainedConfig) -> PreTrainedModel:
    """The causal language model of a configuration, of transformers' own class and without weights."""
    return AutoModelForCausalLM.from_config(config, attn_implementation=config._attn_implementation)
