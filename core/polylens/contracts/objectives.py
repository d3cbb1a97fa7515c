"""What a model gives, and what is minimised."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from polylens.contracts.batches import Batch
from polylens.contracts.regions import Cover

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase


@dataclass  # without slots: ZeRO-3 looks for tensors in the ``vars`` of what a module returns
class Outputs:
    """What a model's ``forward(batch, outputs={...})`` returns: the fields that were asked for, else ``None``.

    Attributes:
        hidden: [B, T, D], the last hidden states after the final norm.
        logits: [n, vocabulary], at the positions given as ``logit_positions`` (bool [B, T]); all of them by default.
        vision: the vision tower's features, one tensor [L_i, D_vision] per crop.
        connector: [V, D], the visual tokens that went into the sequence, in the order of the crops.
        embeddings: [..., D], the input embeddings of ``embed_ids``.
        head: makes logits [n, vocabulary] of hidden states [n, D]. The engine, not the model, puts it here, for an
            objective whose ``inputs_needed`` has ``logits``: so many logits at a time as it wants.
    """

    hidden: Tensor | None = None
    logits: Tensor | None = None
    vision: list[Tensor] | None = None
    connector: Tensor | None = None
    embeddings: Tensor | None = None
    head: Callable[[Tensor], Tensor] | None = None


@dataclass(slots=True)
class Representation:
    """Vectors that an objective couples across the batch.

    Attributes:
        values: [n, D] of the rows that this rank, or this micro-batch, made.
        positions: int64 [n], the place of each vector among all vectors of its name in the global batch, so that the
            result does not depend on how the batch was cut. ``None``: in the order in which they were made.
        labels: int64 [n, F], what is known of each vector and goes with it to all ranks, such as a number that equal
            ones have in common.
    """

    values: Tensor
    positions: Tensor | None = None
    labels: Tensor | None = None


@dataclass(slots=True)
class PairTargets:
    """Which document answers which query, over the whole global batch.

    Attributes:
        positive: int64 [Q], for each query the position of its document.
        ignore: int64 [M, 2], pairs (query, document) that are relevant, or the same as a relevant one, without being
            the target: false negatives, left out of every denominator.
    """

    positive: Tensor
    ignore: Tensor


@dataclass(slots=True)
class Coupled:
    """What ``Objective.coupled`` returns; every part is this rank's share, and ranks are summed.

    Attributes:
        loss: scalar.
        gradients: name -> [n_global, D], the derivative of this rank's share with respect to **all** vectors.
        parameter_gradients: name of a parameter of the objective -> derivative of this rank's share.
        metrics: figures to log, sums over this rank's own rows (``accuracy`` counts hits, for example).
    """

    loss: Tensor
    gradients: dict[str, Tensor]
    parameter_gradients: dict[str, Tensor] = field(default_factory=dict)
    metrics: dict[str, Tensor] = field(default_factory=dict)


class Objective:
    """What is minimised: a sum over examples (``additive``), a function of all representations of the global batch
    (``coupled``), or both.

    The engine calls ``normalisers`` on every micro-batch and sums over micro-batches and ranks before the first
    backward, so that no figure depends on how the batch is cut. ``coupled`` runs once a step, without gradient
    tracking, on vectors gathered from all ranks.

    Attributes:
        inputs_needed: fields of ``Outputs`` that the objective reads; ``logits`` gives it ``hidden`` and ``head``.
        first_inputs: those that ``representations`` reads, if ``additive`` needs more: the first pass of a coupled
            objective leaves out what only the second one needs, such as the language model. ``None``: the same.
        is_coupled: whether ``representations`` and ``coupled`` are used.
        records: the kind of data set it trains on.
        cover: how lines of text find their visual tokens, for an objective that reads ``Batch.regions``.
        reads_lines: whether it needs the lines of text of every picture (``--ocr``).
    """

    inputs_needed: frozenset[str] = frozenset({"hidden"})
    first_inputs: frozenset[str] | None = None
    is_coupled: bool = False
    records: Literal["pairs", "conversations"] = "conversations"
    cover: Cover | None = None
    reads_lines: bool = False

    def use_tokenizer(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Called once, before training, with the tokenizer of the model."""

    def embed_ids(self, batch: Batch) -> Tensor | None:
        """Token ids of any shape whose input embeddings are wanted in ``Outputs.embeddings``."""
        return None

    def normalisers(self, batch: Batch) -> dict[str, float]:
        """Counts that ``additive`` divides by, such as the number of supervised tokens."""
        return {}

    def representations(self, outputs: Outputs, batch: Batch) -> dict[str, Representation]:
        """The vectors that ``coupled`` sees; an example may have any number of them, none included."""
        return {}

    def coupled(
        self,
        representations: Mapping[str, Tensor],
        own: Mapping[str, Tensor],
        targets: Any,
        parameters: Mapping[str, Tensor],
        labels: Mapping[str, Tensor] | None = None,
    ) -> Coupled:
        """Loss and gradient of every representation.

        Args:
            representations: name -> [n_global, D], vectors of all ranks in the order of their positions.
            own: name -> int64 [n], positions of the vectors that this rank made: it answers for their rows.
            targets: what the data set says about the global batch (``PairTargets`` for pairs), or ``None``.
            parameters: current values of ``parameters()``; under ZeRO-3 those themselves are partitioned.
            labels: name -> int64 [n_global, F], of those representations that have labels; left out if none has.
        """
        raise TypeError(f"{type(self).__name__} says it is coupled but has no method coupled()")

    def additive(
        self, outputs: Outputs, batch: Batch, normalisers: Mapping[str, float]
    ) -> Tensor | Mapping[str, Tensor] | None:
        """The loss of a micro-batch; the global loss is the sum over micro-batches and ranks.

        Terms by name are summed, and logged one by one as well.
        """
        return None

    def parameters(self) -> dict[str, nn.Parameter]:
        """Trained values of the objective itself, such as a learned temperature."""
        return {}
