"""The gradient cache: contrastive learning at any batch size.

Gao et al. 2021 (arXiv 2101.06983) split a step in two passes: the first computes all representations without
keeping a graph, the loss gives the gradient of each representation, and the second pass repeats the forward of one
micro-batch at a time and feeds those gradients back. The sum over micro-batches is the gradient of the whole batch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from polylens.contracts import Coupled, Objective, Outputs, Representation
from polylens.engine import distributed
from polylens.engine.accumulation import Accumulation
from polylens.engine.exchange import Gathered, gather, return_gradients
from polylens.engine.random_state import RandomState

M = TypeVar("M")
Forward = Callable[[Any, Mapping[str, float] | None], "Encoded"]


@dataclass  # without slots: ZeRO-3 looks for tensors in the ``vars`` of what a module returns
class Encoded:
    """What the forward pass of a micro-batch gives the gradient cache.

    Attributes:
        representations: name -> vectors of this micro-batch.
        normalisers: counts that the additive loss of the whole batch is divided by, this micro-batch's share.
        additive: the additive part of the loss, if the objective has one and the normalisers were known.
        parameters: current values of the objective's own parameters, attached to their graph.
    """

    representations: dict[str, Representation]
    normalisers: dict[str, float] = field(default_factory=dict)
    additive: Tensor | None = None
    parameters: dict[str, Tensor] = field(default_factory=dict)


@dataclass(slots=True)
class StepResult:
    """Figures of a step over the global batch, the same on every rank.

    Attributes:
        loss: scalar.
        metrics: such as ``accuracy``.
        counts: vectors by name of the representation, and normalisers by name.
    """

    loss: Tensor
    metrics: dict[str, float]
    counts: dict[str, float]


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

    Raises:
        ValueError: there are several ranks, and nothing says how their gradients are summed.

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
        self, encode: Callable[[M], Any], objective: Objective, *, accumulation: Accumulation | None = None
    ) -> None:
        if accumulation is None and distributed.world_size() > 1:
            raise ValueError("several ranks: pass accumulation=accumulation_for(model), or gradients would be wrong")
        self.objective = objective
        self.accumulation = accumulation or Accumulation()
        self._forward: Forward = _Simple(encode, objective)

    @classmethod
    def of_module(cls, module: Forward, objective: Objective, accumulation: Accumulation) -> GradientCache[Any]:
        """A cache whose forward pass, normalisers included, lies inside a (wrapped) ``TrainingModule``."""
        cache = cls(module, objective, accumulation=accumulation)  # type: ignore[arg-type]
        cache._forward = module
        return cache

    def step(self, micro_batches: Iterable[M] | Mapping[str, Sequence[M]], targets: Any = None) -> StepResult:
        """Forward and backward passes over all micro-batches of this rank.

        Args:
            micro_batches: iterated once for each pass, giving the same micro-batches both times; at least one, and
                under distributed training the same number on every rank. Or a mapping from the name of a
                representation to the micro-batches that give it.
            targets: what the objective needs to know of the global batch; see ``Objective.coupled``.
        """
        passes: Iterable[Any] = micro_batches
        if isinstance(micro_batches, Mapping):
            passes = [_Named(str(name), part) for name, parts in micro_batches.items() for part in parts]
        elif not self.objective.is_coupled:
            passes = list(micro_batches)
        first = self._first_pass(passes)
        gathered = gather(first.representations)
        coupled = self._couple(gathered, targets, first.parameters)
        cotangents = return_gradients(gathered, coupled.gradients)
        shares = {name: distributed.sum_tensor(g) for name, g in coupled.parameter_gradients.items()}
        additive = self._second_pass(passes, first, cotangents, shares)
        loss = distributed.sum_tensor(coupled.loss.detach().to(additive.device) + additive)
        metrics = {name: float(distributed.sum_tensor(value.detach())) for name, value in coupled.metrics.items()}
        return StepResult(loss, metrics, {**gathered.counts, **first.normalisers})

    def _first_pass(self, micro_batches: Iterable[Any]) -> _FirstPass:
        """Representations and normalisers of every micro-batch, and the random state that each one started from."""
        first = _FirstPass()
        for micro_batch in micro_batches:
            if not self.objective.is_coupled:
                counts = self.objective.normalisers(micro_batch)
                first.add(Encoded({}, normalisers=counts), None)
                continue
            state = RandomState.capture()
            with torch.no_grad():
                first.add(self._forward(micro_batch, None), state)
        if not first.states:
            raise ValueError("a step needs at least one micro-batch on every rank")
        first.normalisers = distributed.sum_counts(first.normalisers)
        return first

    def _couple(self, gathered: Gathered, targets: Any, parameters: Mapping[str, Tensor]) -> Coupled:
        if not self.objective.is_coupled:
            return Coupled(torch.zeros(()), {})
        with torch.no_grad():
            return self.objective.coupled(gathered.values, gathered.own, targets, parameters)

    def _second_pass(
        self,
        micro_batches: Iterable[Any],
        first: _FirstPass,
        cotangents: Mapping[str, Tensor],
        parameter_gradients: Mapping[str, Tensor],
    ) -> Tensor:
        """Backward of every micro-batch; returns this rank's additive loss.

        The objective's parameters take part in every backward, their gradient in the last one alone.
        """
        offsets = dict.fromkeys(cotangents, 0)
        additive = torch.zeros(())
        with self.accumulation.step():
            for i, (micro_batch, state) in enumerate(zip(micro_batches, first.states, strict=True)):
                last = i == len(first.states) - 1
                with self.accumulation.micro_batch(last), _replayed(state):
                    encoded = self._forward(micro_batch, first.normalisers)
                    loss = _surrogate(encoded, cotangents, offsets, parameter_gradients if last else {})
                    self.accumulation.backward(loss, last)
                if encoded.additive is not None:
                    additive = additive.to(loss.device) + encoded.additive.detach()
        return additive.to(loss.device)


@dataclass(slots=True)
class _FirstPass:
    representations: dict[str, list[Representation]] = field(default_factory=dict)
    normalisers: dict[str, float] = field(default_factory=dict)
    parameters: dict[str, Tensor] = field(default_factory=dict)
    states: list[RandomState | None] = field(default_factory=list)

    def add(self, encoded: Encoded, state: RandomState | None) -> None:
        self.states.append(state)
        self.parameters = {name: value.detach() for name, value in encoded.parameters.items()}
        for name, made in encoded.representations.items():
            self.representations.setdefault(name, []).append(made)
        for name, count in encoded.normalisers.items():
            self.normalisers[name] = self.normalisers.get(name, 0.0) + count


@dataclass(slots=True)
class _Named:
    """A micro-batch that gives one representation."""

    name: str
    content: Any


class _Simple:
    """Brings what a user's ``encode`` returns into one form."""

    def __init__(self, encode: Callable[[Any], Any], objective: Objective) -> None:
        self._encode, self._objective = encode, objective

    def __call__(self, micro_batch: Any, normalisers: Mapping[str, float] | None) -> Encoded:
        named = isinstance(micro_batch, _Named)
        made = self._encode(micro_batch.content if named else micro_batch)
        parameters = {name: parameter * 1 for name, parameter in self._objective.parameters().items()}
        if isinstance(made, Outputs):
            return encoded_outputs(made, micro_batch, self._objective, normalisers, parameters)
        values = {micro_batch.name: made} if named else made
        if not isinstance(values, Mapping):
            raise TypeError("encode returned a tensor, so step() needs a mapping from names to micro-batches")
        found = {n: v if isinstance(v, Representation) else Representation(v) for n, v in values.items()}
        return Encoded(found, parameters=parameters)


def encoded_outputs(
    outputs: Outputs,
    batch: Any,
    objective: Objective,
    normalisers: Mapping[str, float] | None,
    parameters: dict[str, Tensor],
) -> Encoded:
    """What an objective takes from a model's outputs; the additive part only once the normalisers are known."""
    return Encoded(
        objective.representations(outputs, batch) if objective.is_coupled else {},
        normalisers=objective.normalisers(batch),
        additive=None if normalisers is None else objective.additive(outputs, batch, normalisers),
        parameters=parameters,
    )


def _replayed(state: RandomState | None) -> AbstractContextManager[None]:
    return state.replayed() if state is not None else contextlib.nullcontext()


def _surrogate(
    encoded: Encoded,
    cotangents: Mapping[str, Tensor],
    offsets: dict[str, int],
    parameter_gradients: Mapping[str, Tensor],
) -> Tensor:
    """A scalar whose gradient is that of the loss with respect to what this micro-batch contributes."""
    terms = [] if encoded.additive is None else [encoded.additive]
    for name, made in encoded.representations.items():
        start = offsets[name]
        offsets[name] = start + len(made.values)
        terms.append((made.values * cotangents[name][start : offsets[name]].to(made.values.dtype)).sum())
    for name, value in encoded.parameters.items():
        gradient = parameter_gradients.get(name)
        share = 1 / distributed.world_size()  # every rank holds the whole gradient, and ranks are summed
        terms.append((value * (gradient * share if gradient is not None else 0.0)).sum())
    if not terms:
        raise ValueError("a micro-batch gave no representation; one without vectors gives a tensor of shape [0, D]")
    return torch.stack(terms).sum() if len(terms) > 1 else terms[0]
