"""The contrastive objective: a query against every document of the global batch."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polylens.contracts import ROLES, Batch, Coupled, Objective, Outputs, PairTargets, Representation
from polylens.errors import InputError
from polylens.modeling.pooling import Pooling, pool
from polylens.objectives.info_nce import Sums, normalise, normalise_backward, sweep

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
        hits, scale_gradient = queries.new_zeros(()), queries.new_zeros(())
        for size, weight in self._sizes(queries.shape[1]):
            with self._first_dimensions(representations, total.gradients, size) as (vectors, gradients):
                sums = self._one_size(vectors, own, targets, scale, weight, gradients)
            total.loss += weight * sums.loss
            scale_gradient += weight * sums.scale_gradient
            hits = sums.hits
        if self.options.learned_temperature:
            total.parameter_gradients["log_scale"] = (scale_gradient * slope).unsqueeze(0)
        total.metrics = {"accuracy": hits / len(queries)}
        return total

    @contextlib.contextmanager
    def _first_dimensions(
        self, vectors: Mapping[str, Tensor], gradients: Mapping[str, Tensor], size: int
    ) -> Iterator[tuple[dict[str, Tensor], dict[str, Tensor]]]:
        """The first ``size`` dimensions of vectors and of gradients, the latter added to within the block."""
        heads = {name: value[:, :size] for name, value in vectors.items()}
        into = {name: value[:, :size] for name, value in gradients.items()}
        if not (self.options.matryoshka_dims and self.options.normalize):
            yield heads, into
            return
        units, lengths = {}, {}
        for name, head in heads.items():
            units[name], lengths[name] = normalise(head)
        of_units = {name: torch.zeros_like(unit) for name, unit in units.items()}
        yield units, of_units
        for name, gradient in of_units.items():
            into[name] += normalise_backward(gradient, units[name], lengths[name])

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
        vectors: Mapping[str, Tensor],
        own: Mapping[str, Tensor],
        targets: PairTargets,
        scale: Tensor,
        weight: float,
        gradients: Mapping[str, Tensor],
    ) -> Sums:
        """The mean loss over queries (and documents); ``weight`` times its derivatives are added to ``gradients``."""
        queries, documents = vectors["query"], vectors["document"]
        share = 1 / (len(queries) * (2 if self.options.symmetric else 1))
        ignore = targets.ignore if self.options.false_negatives == "mask" else targets.ignore[:0]
        sums = sweep(
            queries,
            documents,
            own["query"],
            targets.positive,
            ignore,
            scale,
            weight=weight * share,
            row_gradients=gradients["query"],
            column_gradients=gradients["document"],
            tile_rows=self.options.tile_rows,
        )
        loss, scale_gradient = sums.loss, sums.scale_gradient
        if self.options.symmetric:
            answers = _inverse(targets.positive, len(documents))
            back = sweep(
                documents,
                queries,
                own["document"][answers[own["document"]] >= 0],
                answers,
                ignore.flip(1),
                scale,
                weight=weight * share,
                row_gradients=gradients["document"],
                column_gradients=gradients["query"],
                tile_rows=self.options.tile_rows,
            )
            loss, scale_gradient = loss + back.loss, scale_gradient + back.scale_gradient
        return Sums(loss * share, scale_gradient * share, sums.hits)


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


def _inverse(positive: Tensor, documents: int) -> Tensor:
    """The query of each document, -1 for a document that is nobody's positive."""
    inverse = positive.new_full((documents,), -1)
    inverse[positive] = torch.arange(len(positive), device=positive.device)
    if int((inverse >= 0).sum()) != len(positive):
        raise ValueError("symmetric needs a document of its own for every query")
    return inverse
