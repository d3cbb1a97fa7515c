"""The gradient cache: contrastive learning at any batch size.

Gao et al. 2021 (arXiv 2101.06983) split a step in two passes: the first computes all representations without
keeping a graph, the loss gives the gradient of each representation, and the second pass repeats the forward of one
micro-batch at a time and feeds those gradients back. The sum over micro-batches is the gradient of the whole batch.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from polylens.contracts import Objective, Representation
from polylens.engine import distributed
from polylens.engine.accumulation import Accumulation
from polylens.engine.encoded import Encoded, Encoder, Named, surrogate
from polylens.engine.exchange import Gathered, gather, return_gradients
from polylens.engine.frozen import FrozenOutputs
from polylens.engine.graph_memory import GraphBudget
from polylens.engine.growing import GrowingTensor
from polylens.engine.random_state import RandomState
from polylens.objectives.coupling import couple

M = TypeVar("M")
Forward = Callable[[Any, Mapping[str, float] | None], Encoded]

MAX_DEVIATION = 0.1
"""Largest relative difference between the vectors of both passes: above the rounding of half precision, and far below
what another dropout mask does."""


@dataclass(slots=True)
class StepResult:
    """Figures of a step over the global batch, the same on every rank.

    Attributes:
        loss: scalar.
        metrics: such as ``accuracy``, and the terms of the additive loss.
        counts: vectors by name of the representation, and normalisers by name.
    """

    loss: Tensor
    metrics: dict[str, float]
    counts: dict[str, float]


class PassesDiffer(RuntimeError):
    """An encoder gave other vectors in the second pass, so the gradients that came back belong to others."""


class GradientCache(Generic[M]):
    """Computes the gradient of an objective over a batch of any size, one micro-batch at a time.

    Gradients are added to ``.grad``, as ``backward()`` does; the caller steps the optimizer. Under distributed
    training the global batch is that of all ranks together, and ranks may have different numbers of rows.

    Args:
        encode: forward pass of one micro-batch: returns a tensor [n, D], a mapping from names to tensors or to
            ``Representation``, or ``Outputs`` (then micro-batches are ``Batch`` and the objective takes from them
            what it needs, its additive part included).
        objective: what is minimised.
        accumulation: how backward calls add up; by default in ``.grad`` of one process. With several ranks it must
            be given, ``accumulation_for(model)`` for a DDP or DeepSpeed model that ``encode`` calls.
        graph_bytes: device memory for graphs kept from the first pass: micro-batches that need no second forward.
        frozen: keeps what frozen modules give in the first pass; the same object in every step.

    Raises:
        ValueError: there are several ranks, and nothing says how their gradients are summed; or graphs are to be kept
            under ZeRO-3 with accumulation boundaries, which would be silently wrong.

    >>> from torch import nn
    >>> from polylens.objectives.contrastive import Contrastive
    >>> encoder = nn.Linear(4, 3)
    >>> cache = GradientCache(lambda rows: nn.functional.normalize(encoder(rows), dim=1), Contrastive())
    >>> pages, questions = torch.randn(6, 4), torch.randn(6, 4)
    >>> result = cache.step({"query": questions.split(2), "document": pages.split(3)})
    >>> encoder.weight.grad.shape, sorted(result.counts.items())
    (torch.Size([3, 4]), [('document', 6), ('query', 6)])
    """

    def __init__(
        self,
        encode: Callable[[M], Any],
        objective: Objective,
        *,
        accumulation: Accumulation | None = None,
        graph_bytes: int = 0,
        frozen: FrozenOutputs | None = None,
    ) -> None:
        if accumulation is None and distributed.world_size() > 1:
            raise ValueError("several ranks: pass accumulation=accumulation_for(model), or gradients would be wrong")
        self.objective = objective
        self.accumulation = accumulation or Accumulation()
        self.graph_bytes, self.frozen = graph_bytes, frozen
        if graph_bytes and not self.accumulation.keeps_graphs:
            raise ValueError("ZeRO-3 with accumulation boundaries cannot keep graphs: pass graph_bytes=0")
        self._forward: Forward = Encoder(encode, objective)

    @classmethod
    def of_module(
        cls,
        module: Forward,
        objective: Objective,
        accumulation: Accumulation,
        *,
        graph_bytes: int = 0,
        frozen: FrozenOutputs | None = None,
    ) -> GradientCache[Any]:
        """A cache whose forward pass, normalisers included, lies inside a (wrapped) ``TrainingModule``."""
        options: dict[str, Any] = {"accumulation": accumulation, "graph_bytes": graph_bytes, "frozen": frozen}
        cache = cls(module, objective, **options)  # type: ignore[arg-type]
        cache._forward = module
        return cache

    def step(
        self,
        micro_batches: Iterable[M] | Mapping[str, Sequence[M]],
        targets: Any = None,
        normalisers: Mapping[str, float] | None = None,
    ) -> StepResult:
        """Forward and backward passes over all micro-batches of this rank.

        An objective that is not coupled takes one pass.

        Args:
            micro_batches: iterated once for each pass, giving the same micro-batches both times; at least one, and
                under distributed training the same number on every rank. Or a mapping from the name of a
                representation to the micro-batches that give it.
            targets: what the objective needs to know of the global batch; see ``Objective.coupled``.
            normalisers: of the global batch, where they were counted before: without them, an objective that is not
                coupled needs all micro-batches at once to count them.

        Raises:
            PassesDiffer: a micro-batch gave other vectors the second time.
        """
        passes: Iterable[Any] = micro_batches
        if isinstance(micro_batches, Mapping):
            passes = [Named(str(name), part) for name, parts in micro_batches.items() for part in parts]
        if not self.objective.is_coupled:
            return self._single_pass(passes, normalisers)
        with self.frozen.step() if self.frozen else contextlib.nullcontext():
            first = self._first_pass(passes)
            gathered = gather(first.representations, first.normalisers)
            first.normalisers = gathered.totals
            coupled = couple(self.objective, gathered.values, gathered.own, targets, first.parameters, gathered.labels)
            cotangents = return_gradients(gathered, coupled.gradients)
            shares = {name: distributed.sum_tensor(g) for name, g in coupled.parameter_gradients.items()}
            additive = self._second_pass(passes, first, _Returned(gathered, cotangents, shares))
        terms = additive.terms | coupled.metrics
        loss, metrics = _summed(coupled.loss.detach() + additive.total.to(coupled.loss.device), terms)
        return StepResult(loss, metrics, {**gathered.counts, **first.normalisers})

    def _single_pass(self, micro_batches: Iterable[Any], normalisers: Mapping[str, float] | None) -> StepResult:
        """Forward and backward of every micro-batch; one more is fetched meanwhile, to know which is the last."""
        if normalisers is None:
            micro_batches = list(micro_batches)
            own = distributed.add_counts(self.objective.normalisers(part) for part in micro_batches)
            normalisers = distributed.sum_counts(own)
        additive = _Additive()
        with self.accumulation.step():
            for micro_batch, last in _with_last(micro_batches):
                with self.accumulation.micro_batch(last=last):
                    encoded = self._forward(micro_batch, normalisers)
                    self.accumulation.backward(surrogate(encoded, {}, None), last)
                additive.add(encoded)
        loss, metrics = _summed(additive.total, additive.terms)
        return StepResult(loss, metrics, dict(normalisers))

    def _first_pass(self, micro_batches: Iterable[Any]) -> _FirstPass:
        """Representations and normalisers of every micro-batch, and the random state that each one started from."""
        first, budget = _FirstPass(), GraphBudget(self.graph_bytes if self._can_keep_graphs else 0)
        for i, micro_batch in enumerate(micro_batches):
            state = self._state(first)
            if budget.allows_another:
                encoded, fits = self._with_graph(micro_batch, budget)
            else:
                with _replayed(state) if self._first_draws_less else contextlib.nullcontext():
                    encoded, fits = self._without_graph(micro_batch, i), False
            first.add(encoded, state, encoded if fits else None)
        if not first.parts:
            raise ValueError("a step needs at least one micro-batch on every rank")
        self._agree(first)
        return first

    @property
    def _first_draws_less(self) -> bool:
        """Whether the second pass draws random numbers that the first one has no use for.

        Each micro-batch then draws from a state of its own, or all of them would draw the same numbers in the end.
        """
        return self.objective.first_inputs is not None

    def _state(self, first: _FirstPass) -> RandomState:
        """What a micro-batch draws from, in both passes."""
        if self._first_draws_less:
            return RandomState.branched()
        return RandomState.capture(first.parts[-1].state if first.parts else None)

    @property
    def _can_keep_graphs(self) -> bool:
        """A graph of the first pass lacks the additive loss, whose normalisers are known after it."""
        return type(self.objective).additive is Objective.additive

    def _with_graph(self, micro_batch: Any, budget: GraphBudget) -> tuple[Encoded, bool]:
        with self.accumulation.micro_batch(last=False):
            return budget.spend(lambda: self._forward(micro_batch, None))

    def _without_graph(self, micro_batch: Any, number: int) -> Encoded:
        with torch.no_grad(), self.frozen.recording(number) if self.frozen else contextlib.nullcontext():
            return self._forward(micro_batch, None)

    def _agree(self, first: _FirstPass) -> None:
        """Every rank keeps the same graphs and frozen outputs: ZeRO-3 needs the same calls of all."""
        graphs = sum(part.graph is not None for part in first.parts)
        if self.accumulation.last_forward_is_fresh:
            graphs = min(graphs, len(first.parts) - 1)
        recorded = self.frozen.recorded if self.frozen else range(0)
        if self.graph_bytes or self.frozen:
            graphs, stop, start = distributed.least([graphs, recorded.stop, -recorded.start])
            recorded = range(-start, stop)
        for part in first.parts[graphs:]:
            part.graph = None
        if self.frozen:
            self.frozen.forget(recorded)

    def _second_pass(self, micro_batches: Iterable[Any], first: _FirstPass, returned: _Returned) -> _Additive:
        """Backward of every micro-batch, kept graphs before all others; returns this rank's additive loss.

        The objective's parameters take part in every backward, their gradient in the last one alone.
        """
        kept = [part for part in first.parts if part.graph is not None]
        left = len(first.parts)
        additive = _Additive()
        with self.accumulation.step():
            for part in reversed(kept):
                left -= 1
                with self.accumulation.micro_batch(last=left == 0):
                    self._backward(part.graph, part, returned, left == 0)
                part.graph = None
            for i, (micro_batch, part) in enumerate(zip(micro_batches, first.parts, strict=True)):
                if i < len(kept):
                    continue
                left -= 1
                with self.accumulation.micro_batch(last=left == 0), _replayed(part.state):
                    encoded = self._repeat(micro_batch, i, first.normalisers)
                    returned.compare(encoded, part.starts)
                    self._backward(encoded, part, returned, left == 0)
                additive.add(encoded)
        returned.check()
        return additive

    def _repeat(self, micro_batch: Any, number: int, normalisers: Mapping[str, float]) -> Encoded:
        with self.frozen.replaying(number) if self.frozen else contextlib.nullcontext():
            return self._forward(micro_batch, normalisers)

    def _backward(self, encoded: Encoded | None, part: _Part, returned: _Returned, last: bool) -> None:
        assert encoded is not None
        cotangents = returned.of(encoded, part.starts)
        self.accumulation.backward(surrogate(encoded, cotangents, returned.parameters if last else None), last)


class _Additive:
    """The additive loss of a rank's micro-batches, and its terms by name."""

    def __init__(self) -> None:
        self.total = torch.zeros(())
        self.terms: dict[str, Tensor] = {}

    def add(self, encoded: Encoded) -> None:
        if encoded.additive is None:
            return
        self.total = self.total.to(encoded.additive.device) + encoded.additive.detach()
        for name, term in encoded.terms.items():
            self.terms[name] = self.terms.get(name, 0.0) + term.detach()


def _summed(loss: Tensor, metrics: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
    """A loss and figures over all ranks."""
    if not metrics:
        return distributed.sum_tensor(loss), {}
    total = distributed.sum_tensor(torch.stack([loss, *(value.detach().to(loss) for value in metrics.values())]))
    return total[0], dict(zip(metrics, total[1:].tolist(), strict=True))


@dataclass(slots=True)
class _Part:
    """What the first pass leaves of a micro-batch.

    Attributes:
        starts: name -> place of its first vector among those of this rank.
        state: of the generators before its forward pass.
        graph: its forward pass, if that need not be repeated.
    """

    starts: dict[str, int]
    state: RandomState | None
    graph: Encoded | None


@dataclass(slots=True)
class _FirstPass:
    normalisers: dict[str, float] = field(default_factory=dict)
    parameters: dict[str, Tensor] = field(default_factory=dict)
    parts: list[_Part] = field(default_factory=list)
    lengths: dict[str, int] = field(default_factory=dict)
    _values: dict[str, GrowingTensor] = field(default_factory=dict)
    _positions: dict[str, GrowingTensor] = field(default_factory=dict)
    _labels: dict[str, GrowingTensor] = field(default_factory=dict)

    @property
    def representations(self) -> dict[str, list[Representation]]:
        """All vectors of this rank; where only some came with a position or labels, the rest is a part of its own."""
        return {
            name: _parts(grown.rows, self._positions.get(name), self._labels.get(name))
            for name, grown in self._values.items()
        }

    def add(self, encoded: Encoded, state: RandomState | None, graph: Encoded | None) -> None:
        self.parts.append(_Part(dict.fromkeys(encoded.representations, 0) | self.lengths, state, graph))
        self.parameters = {name: value.detach() for name, value in encoded.parameters.items()}
        for name, made in encoded.representations.items():
            _add(self._values, name, made.values.detach())
            if made.positions is not None:
                _add(self._positions, name, made.positions)
            if made.labels is not None:
                _add(self._labels, name, made.labels)
            self.lengths[name] = self.lengths.get(name, 0) + len(made.values)
        for name, count in encoded.normalisers.items():
            self.normalisers[name] = self.normalisers.get(name, 0.0) + count


def _parts(values: Tensor, *known: GrowingTensor | None) -> list[Representation]:
    """Cut where positions or labels end, which all rows should have or none."""
    rows = [None if part is None else part.rows for part in known]
    ends = sorted({len(values), *(len(part) for part in rows if part is not None)})
    return [
        Representation(values[start:end], *(None if p is None or len(p) < end else p[start:end] for p in rows))
        for start, end in zip([0, *ends], ends, strict=False)
    ]


def _add(grown: dict[str, GrowingTensor], name: str, rows: Tensor) -> None:
    if name in grown:
        grown[name].add(rows)
    else:
        grown[name] = GrowingTensor(rows)


class _Returned:
    """What comes back to this rank for its second pass.

    Args:
        cotangents: name -> [n, D], gradients of this rank's vectors.
        parameters: of the objective, their gradients.
    """

    def __init__(self, gathered: Gathered, cotangents: Mapping[str, Tensor], parameters: Mapping[str, Tensor]) -> None:
        self._gathered, self._cotangents = gathered, cotangents
        # every rank holds the whole gradient of the objective's parameters, and ranks are summed
        self.parameters = {name: gradient / distributed.world_size() for name, gradient in parameters.items()}
        like = next(iter(cotangents.values()), torch.zeros(()))
        self._squares = like.new_zeros(2, dtype=torch.float32)  # of differences between the passes, and of vectors

    def of(self, encoded: Encoded, starts: Mapping[str, int]) -> dict[str, Tensor]:
        """The gradients of a micro-batch's vectors."""
        return {
            name: self._cotangents[name][starts[name] : starts[name] + len(made.values)]
            for name, made in encoded.representations.items()
        }

    def compare(self, encoded: Encoded, starts: Mapping[str, int]) -> None:
        """Note how far the vectors of the second pass are from those of the first, without waiting for the device."""
        for name, made in encoded.representations.items():
            places = self._gathered.own[name][starts[name] : starts[name] + len(made.values)]
            before = self._gathered.values[name][places]
            self._squares += torch.stack([(made.values.detach() - before).square().sum(), before.square().sum()])

    def check(self) -> None:
        """Refuse gradients that belong to other vectors than those that were computed."""
        if not self._cotangents:
            return
        away, total = distributed.sum_tensor(self._squares).tolist()
        if math.isfinite(total) and not away <= MAX_DEVIATION**2 * total:  # else the loss is not finite either
            raise PassesDiffer(
                f"the second forward pass gave other vectors than the first (relative difference "
                f"{math.sqrt(away / total) if total else math.nan:.2g}): the encoder keeps a state between calls, or "
                "draws random numbers from a generator of its own, so its gradient cannot be computed in two passes"
            )


def _with_last(items: Iterable[Any]) -> Iterator[tuple[Any, bool]]:
    """Each item, and whether it is the last one.

    Raises:
        ValueError: there is none.
    """
    iterator = iter(items)
    try:
        item = next(iterator)
    except StopIteration:
        raise ValueError("a step needs at least one micro-batch on every rank") from None
    for following in iterator:
        yield item, False
        item = following
    yield item, True


def _replayed(state: RandomState | None) -> AbstractContextManager[None]:
    return state.replayed() if state is not None else contextlib.nullcontext()
