"""Learning rates of single components."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch.optim import Optimizer
from transformers import PreTrainedModel

from polylens.contracts import ModelFamily
from polylens.engine.trainable import check_components, component_of
from polylens.errors import InputError


def check_learning_rates(rates: Mapping[str, Any], model: PreTrainedModel, family: ModelFamily) -> None:
    """Refuse rates that no weight would be trained with.

    Raises:
        InputError: an unknown component, one that is not trained, a rate that is no number from 0 up.
    """
    check_components(family, rates)
    trained = {component_of(name, family) for name, weight in model.named_parameters() if weight.requires_grad}
    for component, rate in rates.items():
        if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 <= rate < float("inf"):
            raise InputError(f"learning_rates: /{component} is {rate!r}; it must be a number from 0 up")
        if component not in trained:
            raise InputError(f"learning_rates: no weight of {component} is trained: add it to --tune, or leave it out")


def set_learning_rates(
    optimizer: Optimizer, rates: Mapping[str, float], model: PreTrainedModel, family: ModelFamily
) -> None:
    """Split the groups of a new optimizer by component; the schedule then scales every rate alike.

    What no rate is named for stays in its group, which comes first: the logged rate is the run's own.
    """
    owners = {id(weight): component_of(name, family) for name, weight in model.named_parameters()}
    kept, own = [], []
    for group in optimizer.param_groups:
        parts: dict[str | None, list[Any]] = {}
        for weight in group["params"]:
            owner = owners.get(id(weight))
            parts.setdefault(owner if owner in rates else None, []).append(weight)
        for component, weights in parts.items():
            if component is None:
                kept.append({**group, "params": weights})
            else:
                own.append({**group, "params": weights, "lr": float(rates[component])})
    optimizer.param_groups[:] = kept + own
