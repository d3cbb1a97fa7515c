"""What is minimised. Each objective is usable alone, on tensors; ``build`` finds one by name."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from polylens.contracts import Objective

# name -> (module, class of the objective, class of its options); imported when asked for, since they import torch
OBJECTIVES = {
    "contrastive": ("polylens.objectives.contrastive", "Contrastive", "ContrastiveOptions"),
    "lm": ("polylens.objectives.lm", "LanguageModelling", "LmOptions"),
    "multi_granularity": (
        "polylens.objectives.multi_granularity",
        "MultiGranularity",
        "MultiGranularityOptions",
    ),
}

__all__ = ["OBJECTIVES", "build"]


def build(name: str, options: Mapping[str, Any]) -> Objective | None:
    """The core's objective of that name, or ``None`` if it has none such.

    Raises:
        InputError: ``options`` has a name or a value that the objective does not know.
    """
    if name not in OBJECTIVES:
        return None
    from polylens.config.options import build_options

    module, objective, kind = OBJECTIVES[name]
    home = import_module(module)
    return getattr(home, objective)(build_options(getattr(home, kind), options, f"objective {name!r}"))
