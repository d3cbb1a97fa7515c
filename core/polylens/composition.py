"""Models of parts: a language model, a vision tower, and a connector between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Borrowed", "Composition", "Export", "PartFiles"]


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


@dataclass(frozen=True, slots=True)
class Borrowed:
    """A component that a checkpoint may leave to another model, or keep in a file of its own.

    What the checkpoint does hold of it is preferred.

    Attributes:
        source: folder or hub id of the other model; empty if nothing names one. ``llm`` may be given as ``--base``.
        option: of the family, by which a user names another ``source``.
        prefixes: what names of the other model's weights may begin with in this one, as in ``Composition.parts``.
        files: names of files in the checkpoint's folder that may hold the weights, under the names of its layouts.
        described: makes what ``config.json`` lacks of the other model's files; ``None`` if it lacks nothing.
    """

    source: str = ""
    option: str = ""
    prefixes: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    described: Callable[[PartFiles], dict[str, Any]] | None = None


@dataclass(frozen=True, slots=True)
class Export:
    """How a model becomes one of another family of the same plugin.

    Attributes:
        renames: regular expressions over names of weights in the model -> names in the other one.
        config: makes the other ``config.json``, given this one and the number of tokens. It raises ``InputError``
            where the other family has no such model.
        finish: writes what else the other layout has into the new folder, given it, the tokenizer and the new
            ``config.json``.
        cuts: whether rows that the other model has not are left out.
    """

    renames: Mapping[str, str]
    config: Callable[[Mapping[str, Any], int], dict[str, Any]]
    finish: Callable[[Path, Any, Mapping[str, Any]], None]
    cuts: bool = False
