"""The gradient of a few micro-batches from plain graphs, apart from all that the gradient cache does.

Every micro-batch is run once, with its graph, one after the other, so that random numbers come as they come. Each rank
couples the vectors of all ranks by itself, in float64. ``torch.autograd.grad`` gives the gradients, which reaches
none of the hooks by which DistributedDataParallel and DeepSpeed sum gradients; they are summed here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from polylens.contracts import Batch, Objective
from polylens.engine import distributed
from polylens.engine.encoded import Encoded
from polylens.engine.random_state import RandomState
from polylens.objectives.coupling import couple
from polylens.objectives.slope import gradient_error

Forward = Callable[[Batch, Mapping[str, float]], Encoded]


@dataclass(slots=True)
class DirectGradient:
    """A gradient, and how far it can be trusted.

    Attributes:
        values: name of the parameter -> its gradient, summed over ranks, in float32 at least.
        rounding: relative error of the gradient with respect to the vectors when the objective works in their own
            precision: large where the loss is so small that hardly more than rounding is left of its gradient.
        objective_error: relative error of the objective's own gradient; see ``gradient_error``.
    """

    values: dict[str, Tensor] = field(default_factory=dict)
    rounding: float = 0.0
    objective_error: float = 0.0


def direct_gradient(
    forward: Forward,
    objective: Objective,
    parts: Sequence[tuple[Any, Sequence[Batch]]],
    trained: Mapping[str, nn.Parameter],
    *,
    scale: float = 1.0,
) -> DirectGradient:
    """The gradient of the mean loss of several global batches; every rank must call it.

    Args:
        forward: of the module inside its wrapper.
        parts: targets and this rank's micro-batches of each global batch. All graphs of a batch exist at a time.
        trained: the parameters whose gradients are wanted; others cost no memory.
        scale: of the loss on the way back, for fp16; the result is not scaled.
    """
    found = DirectGradient()
    for targets, batches in parts:
        encoded = _encode(forward, objective, batches)
        own = _couple(objective, encoded, targets, found)
        for made, cotangents in zip(reversed(encoded), reversed(own), strict=True):
            _add_gradients(found.values, made, cotangents, trained, scale)
        encoded.clear()
    for name, parameter in trained.items():
        total = found.values.get(name)
        if total is None:
            total = torch.zeros(full_shape(parameter), device=parameter.device)
        if distributed.world_size() > 1:
            dist.all_reduce(total)
        found.values[name] = total / (scale * len(parts))
    return found


def full_shape(parameter: Tensor) -> torch.Size:
    """Also of a parameter that ZeRO-3 has partitioned."""
    return getattr(parameter, "ds_shape", parameter.shape)


def _encode(forward: Forward, objective: Objective, batches: Iterable[Batch]) -> list[Encoded]:
    counts: dict[str, float] = {}
    for batch in batches:
        for name, count in objective.normalisers(batch).items():
            counts[name] = counts.get(name, 0.0) + count
    normalisers = distributed.sum_counts(counts)
    return [_forward(forward, objective, batch, normalisers) for batch in batches]


def _forward(forward: Forward, objective: Objective, batch: Batch, normalisers: Mapping[str, float]) -> Encoded:
    """With the random numbers that the gradient cache gives a micro-batch."""
    if not objective.is_coupled or objective.first_inputs is None:
        return forward(batch, normalisers)
    with RandomState.branched().replayed():
        return forward(batch, normalisers)


def _couple(
    objective: Objective, encoded: Sequence[Encoded], targets: Any, found: DirectGradient
) -> list[list[tuple[Tensor, Tensor]]]:
    """For each micro-batch the tensors that its backward starts from, each with its gradient."""
    starts = [
        [(made.additive, torch.ones_like(made.additive))] if made.additive is not None else [] for made in encoded
    ]
    if not objective.is_coupled:
        return starts
    whole, places, labels = _gather(encoded)
    parameters = {name: value.detach() for name, value in encoded[-1].parameters.items()}
    exact = couple(objective, {name: v.double() for name, v in whole.items()}, None, targets, parameters, labels)
    rounded = couple(objective, whole, None, targets, parameters, labels)
    found.rounding = max(found.rounding, _difference(rounded.gradients, exact.gradients))
    if not found.objective_error:
        found.objective_error = gradient_error(objective, whole, targets, parameters, labels)
    # Every rank holds the whole gradient of the objective's own parameters, so one of them brings it in.
    share = float(distributed.rank() == 0)
    for i, (made, place) in enumerate(zip(encoded, places, strict=True)):
        for name, representation in made.representations.items():
            starts[i].append((representation.values, exact.gradients[name][place[name].to(whole[name].device)]))
        for name, value in made.parameters.items():
            gradient = exact.parameter_gradients.get(name, torch.zeros_like(value))
            starts[i].append((value, gradient * share * (i == 0)))
    return starts


def _gather(encoded: Sequence[Encoded]) -> tuple[dict[str, Tensor], list[dict[str, Tensor]], dict[str, Tensor]]:
    """The vectors of all ranks by name, the positions of this rank's in each micro-batch, and the labels of all."""
    sent = [
        {name: (_cpu(r.positions), _cpu(r.values), _cpu(r.labels)) for name, r in part.representations.items()}
        for part in encoded
    ]
    rows: dict[str, list[Tensor]] = {}
    known: dict[str, list[Tensor]] = {}
    order: dict[str, list[Tensor]] = {}
    own = []
    for rank, parts in enumerate(distributed.gather_objects(sent)):
        for part in parts:
            for name, (positions, values, labels) in part.items():
                before = sum(map(len, rows.setdefault(name, [])))
                rows[name].append(values)
                if labels is not None:
                    known.setdefault(name, []).append(labels)
                counted = torch.arange(before, before + len(values))
                order.setdefault(name, []).append(counted if positions is None else positions)
            if rank == distributed.rank():
                own.append({name: order[name][-1] for name in part})
    device = next(iter(encoded[0].representations.values())).values.device
    whole, labels = (
        {name: torch.cat(parts)[torch.cat(order[name]).argsort()].to(device) for name, parts in found.items()}
        for found in (rows, known)
    )
    return {name: v.to(torch.promote_types(v.dtype, torch.float32)) for name, v in whole.items()}, own, labels


def _cpu(value: Tensor | None) -> Tensor | None:
    return None if value is None else value.detach().cpu()


def _difference(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> float:
    """Relative, in the L2 norm over all tensors."""
    apart = sum(float((found[name].double() - value).pow(2).sum()) for name, value in wanted.items())
    length = sum(float(value.pow(2).sum()) for value in wanted.values())
    return (apart / length) ** 0.5 if length else float(apart > 0)


def _add_gradients(
    totals: dict[str, Tensor],
    made: Encoded,
    starts: Sequence[tuple[Tensor, Tensor]],
    trained: Mapping[str, nn.Parameter],
    scale: float,
) -> None:
    used = [(value, gradient) for value, gradient in starts if value.requires_grad]
    if not used:
        return
    gradients = torch.autograd.grad(
        [value for value, _ in used],
        list(trained.values()),
        [(gradient * scale).to(value.dtype) for value, gradient in used],
        allow_unused=True,
    )
    for name, gradient in zip(trained, gradients, strict=True):
        if gradient is not None:
            wide = gradient.to(torch.promote_types(gradient.dtype, torch.float32))
            totals[name] = totals[name] + wide if name in totals else wide
