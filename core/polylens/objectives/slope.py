"""Whether the gradient that an objective gives is that of its loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from polylens.contracts import Coupled, Objective
from polylens.objectives.coupling import couple

_STEP = 1e-6
"""Length of a step, relative to the values that it leads away from."""

_ROUNDING = 1e-13
"""Of a loss in float64, relative to it (or absolute below 1)."""


def gradient_error(
    objective: Objective,
    representations: Mapping[str, Tensor],
    targets: Any = None,
    parameters: Mapping[str, Tensor] | None = None,
    labels: Mapping[str, Tensor] | None = None,
    *,
    directions: int = 4,
) -> float:
    """Relative error of the gradient from ``objective.coupled``, against differences of its loss in float64.

    The loss is followed along the gradient and along random directions; over random unit directions in n dimensions
    the mean squared product with the error is 1 / n of its squared length, which gives the length back. Where the
    loss has a kink, any slope between those on its two sides is right.

    Args:
        representations: all vectors of a batch, as one rank would see them.
        parameters: values of the objective's own parameters, each checked by itself.
        labels: of the vectors, by name.
        directions: how many random ones.

    >>> from polylens.objectives.contrastive import Contrastive
    >>> vectors = torch.nn.functional.normalize(torch.arange(1.0, 9.0).reshape(2, 4).sin(), dim=1)
    >>> gradient_error(Contrastive(), {"query": vectors, "document": vectors.flip(1)}) < 1e-6
    True
    """
    vectors = {name: values.detach().double() for name, values in representations.items()}
    free = {name: value.detach().double() for name, value in (parameters or {}).items()}

    def coupled(changed_vectors: Mapping[str, Tensor], changed: Mapping[str, Tensor]) -> Coupled:
        return couple(objective, changed_vectors, None, targets, changed, labels)

    found = coupled(vectors, free)
    gradients = {name: found.gradients.get(name, torch.zeros_like(values)) for name, values in vectors.items()}
    errors = [_error(lambda moved: float(coupled(moved, free).loss), vectors, gradients, directions)]
    for name, value in free.items():
        gradient = found.parameter_gradients.get(name, torch.zeros_like(value))

        def loss(moved: Mapping[str, Tensor]) -> float:
            return float(coupled(vectors, {**free, **moved}).loss)

        errors.append(_error(loss, {name: value}, {name: gradient}, directions))
    return max(errors)


def _error(
    loss: Callable[[Mapping[str, Tensor]], float],
    values: Mapping[str, Tensor],
    gradients: Mapping[str, Tensor],
    directions: int,
) -> float:
    """Relative to the length of the gradient."""
    gradient = torch.cat([gradients[name].double().flatten() for name in values])
    length, count = float(gradient.norm()), len(gradient)
    here = loss(values)
    step = _STEP * max(float(sum(value.pow(2).sum() for value in values.values())) ** 0.5, _STEP)
    generator = torch.Generator().manual_seed(0)  # of its own: the run's must not move
    chosen = [torch.randn(count, generator=generator, dtype=torch.float64).to(gradient) for _ in range(directions)]
    gaps = []
    for direction in [*chosen, gradient] if length else chosen:
        unit = direction / direction.norm()
        ahead, behind = (loss(_moved(values, unit * s)) for s in (step, -step))
        low, high = sorted(((ahead - here) / step, (here - behind) / step))
        claimed = float(gradient @ unit)
        gap = max(low - claimed, claimed - high, 0.0) - _ROUNDING * max(abs(here), 1.0) / step
        gaps.append(max(gap, 0.0))
    across = (count * sum(gap**2 for gap in gaps[:directions]) / directions) ** 0.5
    error = max(across, *gaps)
    return error / length if length else float("inf") if error else 0.0


def _moved(values: Mapping[str, Tensor], by: Tensor) -> dict[str, Tensor]:
    parts = by.split([value.numel() for value in values.values()])
    return {name: value + part.view_as(value) for (name, value), part in zip(values.items(), parts, strict=True)}
