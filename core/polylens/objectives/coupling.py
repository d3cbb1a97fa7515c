"""Calls the coupled part of an objective."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from polylens.contracts import Coupled, Objective


def couple(
    objective: Objective,
    representations: Mapping[str, Tensor],
    own: Mapping[str, Tensor] | None,
    targets: Any,
    parameters: Mapping[str, Tensor],
    labels: Mapping[str, Tensor] | None = None,
) -> Coupled:
    """``objective.coupled`` without gradient tracking; objectives whose vectors have no labels need not know of them.

    Args:
        own: positions of this rank's vectors; ``None`` is all of them, as if one process had made them.
    """
    if own is None:
        own = {name: torch.arange(len(values), device=values.device) for name, values in representations.items()}
    options = {"labels": labels} if labels else {}
    with torch.no_grad():
        return objective.coupled(representations, own, targets, parameters, **options)
