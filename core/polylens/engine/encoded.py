"""What the forward pass of a micro-batch gives the gradient cache, and how gradients are fed back into it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from polylens.contracts import Objective, Outputs, Representation


@dataclass  # without slots: ZeRO-3 looks for tensors in the ``vars`` of what a module returns
class Encoded:
    """A micro-batch after the forward pass.

    Attributes:
        representations: name -> vectors of this micro-batch.
        normalisers: counts that the additive loss of the whole batch is divided by, this micro-batch's share.
        additive: the additive part of the loss, if the objective has one and the normalisers were known.
        terms: of the additive part, if the objective names them.
        parameters: current values of the objective's own parameters, attached to their graph.
    """

    representations: dict[str, Representation]
    normalisers: dict[str, float] = field(default_factory=dict)
    additive: Tensor | None = None
    terms: dict[str, Tensor] = field(default_factory=dict)
    parameters: dict[str, Tensor] = field(default_factory=dict)


@dataclass(slots=True)
class Named:
    """A micro-batch that gives one representation."""

    name: str
    content: Any


class Encoder:
    """Brings what a user's ``encode`` returns into one form."""

    def __init__(self, encode: Callable[[Any], Any], objective: Objective) -> None:
        self._encode, self._objective = encode, objective

    def __call__(self, micro_batch: Any, normalisers: Mapping[str, float] | None) -> Encoded:
        named = isinstance(micro_batch, Named)
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
    additive = None if normalisers is None else objective.additive(outputs, batch, normalisers)
    terms = dict(additive) if isinstance(additive, Mapping) else {}
    return Encoded(
        objective.representations(outputs, batch) if objective.is_coupled else {},
        normalisers=objective.normalisers(batch),
        additive=torch.stack(list(terms.values())).sum() if isinstance(additive, Mapping) else additive,
        terms=terms,
        parameters=parameters,
    )


def surrogate(
    encoded: Encoded, cotangents: Mapping[str, Tensor], parameter_gradients: Mapping[str, Tensor] | None
) -> Tensor:
    """A scalar whose gradient is that of the loss with respect to what a micro-batch contributes.

    Args:
        cotangents: name -> [n, D], gradient of each vector of this micro-batch.
        parameter_gradients: of the objective's parameters, or ``None``: they take part, with a gradient of zero.
    """
    terms = [] if encoded.additive is None else [encoded.additive]
    for name, made in encoded.representations.items():
        terms.append((made.values * cotangents[name].to(made.values.dtype)).sum())
    for name, value in encoded.parameters.items():
        terms.append((value * (0.0 if parameter_gradients is None else parameter_gradients[name])).sum())
    if not terms:
        raise ValueError("a micro-batch gave no representation; one without vectors gives a tensor of shape [0, D]")
    return torch.stack(terms).sum() if len(terms) > 1 else terms[0]
