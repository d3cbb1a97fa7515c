"""How a model family makes new models of parts: a language model, a vision tower, and a connector between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Composition", "PartFiles"]


@dataclass(frozen=True, slots=True)
class PartFiles:
    """What a model folder says that becomes a part of a new model.

    Attributes:
        config: content of its ``config.json``.
        processor: content of its ``preprocessor_config.json``; empty if it has none.
    """

    config: Mapping[str, Any]
    processor: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Composition:
    """How a new model is made of a language model and a vision tower, with a connector that starts at random.

    Attributes:
        parts: ``llm``, ``vision``, and ``second_vision`` where the family can have one -> what the names of its
            weights may begin with in the model. Weights that the model has under none of these names are left out.
        connectors: what may be chosen.
        config: makes ``config.json`` of the parts and of the name of the connector. It raises ``InputError`` where
            they do not fit.
    """

    parts: Mapping[str, tuple[str, ...]]
    connectors: tuple[str, ...]
    config: Callable[[Mapping[str, PartFiles], str], dict[str, Any]]
