"""The contrastive objective: a query against every document of the global batch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polylens.contracts import ROLES, Batch, Coupled, Objective, Outputs, PairTargets, Representation
from polylens.errors import InputError
from polylens.modeling.pooling import Pooling, pool
from polylens.objectives.info_nce import sweep, truncate, truncate_backward

MAX_SCALE = 100.0
"""Largest inverse temperature that is learned, as in CLIP (Radford et al. 2021, arXiv 2103.00020)."""

LOG_MAX_SCALE = math.log(MAX_SCALE)


@dataclass
class ContrastiveOptions:
    """Options of the objective ``contrastive``.

    Args:
        temperature: divides the similarities; the start value if it is learned.
        learned_temperature: train the temperature, as the logarithm of its inverse, held at 0.01 or above.
        symmetric: average with the loss of each positive document against all queries.
        pooling: how a sequence becomes one vector.
        normalize: bring vectors to unit length.
        matryoshka_dims: also train the first so many dimensions, renormalised (Kusupati et al. 2022, arXiv
            2205.13147). The loss is the weighted mean over them; give the full size too if it is to be trained.
        matryoshka_weights: one per size; by default all 1.
        false_negatives: ``mask`` leaves documents that are also relevant to a query, or the same as its positive, out
            of its denominator; ``keep`` counts them as negatives.
        tile_rows: rows of the similarity matrix that exist at a time.
    """

    temperature: float = 0.02
    learned_temperature: bool = False
    symmetric: bool = False
    pooling: Pooling = "wmean"
    normalize: bool = True
    matryoshka_dims: list[int] | None = None
    matryoshka_weights: list[float] | None = None
    false_negatives: Literal["mask", "keep"] = "mask"
    tile_rows: int = 512

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"temperature is {self.temperature}; it must be above 0")
        if self.learned_temperature and self.temperature < 1 / MAX_SCALE:
            raise ValueError(f"temperature is {self.temperature}; a learned one must start at 0.01 or above")
        if self.tile_rows < 1:
            raise ValueError(f"tile_rows is {self.tile_rows}; it must be at least 1")
        if any(size < 1 for size in self.matryoshka_dims or []):
            raise ValueError(f"matryoshka_dims is {self.matryoshka_dims}; every size must be at least 1")
        if len(self.matryoshka_weights or self.matryoshka_dims or []) != len(self.matryoshka_dims or []):
            raise ValueError("matryoshka_weights needs one weight for each of matryoshka_dims")
        if any(not weight > 0 for weight in self.matryoshka_weights or []):
            raise ValueError(f"matryoshka_weights is {self.matryoshka_weights}; every weight must be above 0")


class Contrastive(Objective):
    """InfoNCE over in-batch, cross-rank and hard negatives.

    The loss is the mean over all queries of the global batch of
    ``-log softmax(query . documents / temperature)[positive]``.
    """

    inputs_needed = frozenset({"hidden"})
    is_coupled = True
    records = "pairs"

    def __init__(self, options: ContrastiveOptions | None = None) -> None:
        self.options = options or ContrastiveOptions()
        # One element, not a scalar: DeepSpeed cannot broadcast tensors without dimensions.
        self._log_scale = nn.Parameter(torch.tensor([-math.log(self.options.temperature)]))

    def parameters(self) -> dict[str, nn.Parameter]:
        """``log_scale``, the logarithm of the inverse temperature, if it is learned."""
        return {"log_scale": self._log_scale} if self.options.learned_temperature else {}

    def representations(self, outputs: Outputs, batch: Batch) -> dict[str, Representation]:
        """One vector [D] for each row whose role is query or document."""
        assert outputs.hidden is not None
        vectors = pool(outputs.hidden, batch.attention_mask, self.options.pooling)
        if self.options.normalize:
            vectors = F.normalize(vectors, dim=1)
        found = {}
        for index, role in enumerate(ROLES):
            chosen = batch.rows["role"] == index
            found[role] = Representation(vectors[chosen], batch.rows["position"][chosen])
        return found

    def coupled(
        self,
        representations: Mapping[str, Tensor],
        own: Mapping[str, Tensor],
        targets: PairTargets | None = None,
        parameters: Mapping[str, Tensor] | None = None,
    ) -> Coupled:
        """Loss and gradients of the rows that this rank answers for.

        Args:
            representations: ``query`` [Q, D] and ``document`` [N, D].
            own: positions of this rank's queries and documents.
            targets: by default document ``i * (N // Q)`` answers query ``i``, the rest of its block being its hard
                negatives.
            parameters: ``log_scale`` if the temperature is learned.
        """
        queries, documents = representations["query"], representations["document"]
        targets = _on(queries, targets) if targets else _blocks(queries, documents)
        scale, slope = self._scale(queries, parameters or {})
        total = Coupled(queries.new_zeros(()), {n: torch.zeros_like(v) for n, v in representations.items()})
        hits = queries.new_zeros(())
        scale_gradient = queries.new_zeros(())
        for size, weight in self._sizes(queries.shape[1]):
            part, part_hits, part_scale = self._one_size(queries, documents, own, targets, scale, size)
            total.loss += weight * part.loss
            for name, gradient in part.gradients.items():
                total.gradients[name][:, :size] += weight * gradient
            scale_gradient += weight * part_scale
            hits = part_hits
        if self.options.learned_temperature:
            total.parameter_gradients["log_scale"] = (scale_gradient * slope).unsqueeze(0)
        total.metrics = {"accuracy": hits / len(queries)}
        return total

    def _sizes(self, full: int) -> list[tuple[int, float]]:
        """Sizes in ascending order, so that the largest one gives the accuracy, with weights that sum to 1."""
        dims = self.options.matryoshka_dims or [full]
        if max(dims) > full:
            raise InputError(f"matryoshka_dims has {max(dims)}, and vectors have {full} dimensions")
        weights = self.options.matryoshka_weights or [1.0] * len(dims)
        return [(size, weight / sum(weights)) for size, weight in sorted(zip(dims, weights, strict=True))]

    def _scale(self, like: Tensor, parameters: Mapping[str, Tensor]) -> tuple[Tensor, float]:
        """The inverse temperature, and its derivative with respect to ``log_scale``."""
        if not self.options.learned_temperature:
            return like.new_tensor(1 / self.options.temperature), 0.0
        free = parameters.get("log_scale", self._log_scale).detach().squeeze()
        held = bool(free > LOG_MAX_SCALE)  # in its own type: rounded, the logarithm of 100 is not above itself
        scale = free.clamp(max=LOG_MAX_SCALE).to(like).exp()
        return scale, 0.0 if held else float(scale)

    def _one_size(
        self,
        queries: Tensor,
        documents: Tensor,
        own: Mapping[str, Tensor],
        targets: PairTargets,
        scale: Tensor,
        size: int,
    ) -> tuple[Coupled, Tensor, Tensor]:
        """The mean loss over queries (and documents), on the first ``size`` dimensions."""
        shortened = bool(self.options.matryoshka_dims) and self.options.normalize
        (q, q_length), (d, d_length) = (
            truncate(v, size) if shortened else (v[:, :size], v.new_ones(())) for v in (queries, documents)
        )
        ignore = targets.ignore if self.options.false_negatives == "mask" else targets.ignore[:0]
        q_gradient, d_gradient = torch.zeros_like(q), torch.zeros_like(d)

        rows, local = _select(own["query"], ignore, len(q))
        forward = sweep(q[rows], d, targets.positive[rows], scale, local, self.options.tile_rows)
        q_gradient.index_add_(0, rows, forward.row_gradients)
        d_gradient += forward.column_gradients
        loss, scale_gradient = forward.loss, forward.scale_gradient
        if self.options.symmetric:
            answers = _inverse(targets.positive, len(d))
            mine = own["document"][answers[own["document"]] >= 0]
            rows, local = _select(mine, ignore.flip(1), len(d))
            back = sweep(d[rows], q, answers[rows], scale, local, self.options.tile_rows)
            d_gradient.index_add_(0, rows, back.row_gradients)
            q_gradient += back.column_gradients
            loss, scale_gradient = loss + back.loss, scale_gradient + back.scale_gradient

        share = 1 / (len(queries) * (2 if self.options.symmetric else 1))
        gradients = {"query": q_gradient * share, "document": d_gradient * share}
        if shortened:
            gradients["query"] = truncate_backward(gradients["query"], q, q_length)
            gradients["document"] = truncate_backward(gradients["document"], d, d_length)
        return Coupled(loss * share, gradients), forward.hits, scale_gradient * share


def loss_and_gradients(
    queries: Tensor, documents: Tensor, targets: PairTargets | None = None, **options: Any
) -> Coupled:
    """The contrastive loss of vectors of your own, with the gradient of each, by row tiles.

    Args:
        queries: [Q, D].
        documents: [N, D].
        targets: by default document ``i * (N // Q)`` answers query ``i``.
        options: of ``ContrastiveOptions``.

    >>> from polylens.objectives import contrastive
    >>> result = contrastive.loss_and_gradients(torch.eye(2), torch.eye(2), temperature=1.0)
    >>> round(float(result.loss), 4), float(result.metrics["accuracy"])
    (0.3133, 1.0)
    >>> result.gradients["query"].shape
    torch.Size([2, 2])
    """
    own = {name: torch.arange(len(v), device=v.device) for name, v in (("query", queries), ("document", documents))}
    objective = Contrastive(ContrastiveOptions(**options))
    return objective.coupled({"query": queries, "document": documents}, own, targets)


def _on(like: Tensor, targets: PairTargets) -> PairTargets:
    return PairTargets(targets.positive.to(like.device), targets.ignore.to(like.device))


def _blocks(queries: Tensor, documents: Tensor) -> PairTargets:
    """Targets of documents that stand in blocks, one block a query, its positive first."""
    if not len(queries) or len(documents) % len(queries):
        raise ValueError(
            f"{len(documents)} documents for {len(queries)} queries: give targets, or the same number for each query"
        )
    positive = torch.arange(len(queries), device=queries.device) * (len(documents) // len(queries))
    return PairTargets(positive, positive.new_empty((0, 2)))


def _select(rows: Tensor, ignore: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The rows, and the entries of ``ignore`` that lie in them with the row renumbered."""
    place = rows.new_full((count,), -1)
    place[rows] = torch.arange(len(rows), device=rows.device)
    local = torch.stack([place[ignore[:, 0]], ignore[:, 1]], dim=1)
    return rows, local[local[:, 0] >= 0]


def _inverse(positive: Tensor, documents: int) -> Tensor:
    """The query of each document, -1 for a document that is nobody's positive."""
    inverse = positive.new_full((documents,), -1)
    inverse[positive] = torch.arange(len(positive), device=positive.device)
    if int((inverse >= 0).sum()) != len(positive):
        raise ValueError("symmetric needs a document of its own for every query")
    return inverse
