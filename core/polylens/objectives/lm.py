"""The language-modelling objective: the tokens of answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from polylens.contracts import IGNORE_INDEX, Batch, Objective, Outputs
from polylens.objectives.cross_entropy import chunked_cross_entropy


@dataclass
class LmOptions:
    """Options of the objective ``lm``.

    Args:
        normaliser: ``tokens`` is the mean over all supervised tokens of a step; ``samples`` is the mean over
            conversations of the mean over their tokens, so that a long answer counts as much as a short one.
        logit_positions: positions whose logits exist at a time; each takes four bytes for every word of the
            vocabulary, three times over.
    """

    normaliser: Literal["tokens", "samples"] = "tokens"
    logit_positions: int = 512

    def __post_init__(self) -> None:
        if self.logit_positions < 1:
            raise ValueError(f"logit_positions is {self.logit_positions}; it must be at least 1")


class LanguageModelling(Objective):
    """Cross-entropy of every supervised token, that is of answers and of the token that ends them.

    The model predicts a token from the hidden state before it; logits are made at those places alone.
    """

    inputs_needed = frozenset({"logits"})
    records = "conversations"

    def __init__(self, options: LmOptions | None = None) -> None:
        self.options = options or LmOptions()

    def normalisers(self, batch: Batch) -> dict[str, float]:
        """Supervised tokens, or rows that have any."""
        predicts = _predicts(batch)
        counted = predicts if self.options.normaliser == "tokens" else predicts.any(dim=1)
        return {self.options.normaliser: float(counted.sum())}

    def additive(self, outputs: Outputs, batch: Batch, normalisers: Mapping[str, float]) -> Tensor:
        """This micro-batch's share of the mean.

        Raises:
            ValueError: the model gave no hidden states or no head.
        """
        if outputs.hidden is None or outputs.head is None:
            raise ValueError("lm needs Outputs.hidden and Outputs.head; ask the model for its hidden states")
        predicts = _predicts(batch)
        return chunked_cross_entropy(
            outputs.head,
            outputs.hidden[:, :-1][predicts],
            batch.labels[:, 1:][predicts],
            self._weights(predicts, normalisers)[predicts],
            positions=self.options.logit_positions,
        )

    def _weights(self, predicts: Tensor, normalisers: Mapping[str, float]) -> Tensor:
        """float64 [B, T - 1], what each token counts; float64, for a count of tokens in float32 ends at 16 million."""
        total = max(normalisers[self.options.normaliser], 1.0)
        if self.options.normaliser == "tokens":
            return predicts.double() / total
        return predicts / (predicts.sum(dim=1, keepdim=True).clamp(min=1).double() * total)


def _predicts(batch: Batch) -> Tensor:
    """bool [B, T - 1], the places whose next token is supervised."""
    return (batch.labels[:, 1:] != IGNORE_INDEX) & batch.attention_mask[:, :-1]
