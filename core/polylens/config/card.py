"""``polylens.json``: what a model folder says about how it was trained, so that evaluation cannot disagree."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from polylens.config import schemas
from polylens.config.json_text import read_json_object
from polylens.files import write_text

NAME = "polylens.json"


def _versions() -> dict[str, str]:
    return {name: version(name) for name in ("polylens", "torch", "transformers")}


@dataclass
class ModelCard:
    """The content of ``polylens.json`` (``schemas/polylens.schema.json``).

    Attributes:
        plugin, family: who knows the model.
        options: of the family (slicing limits, ``compat``).
        style: of the template, ``plain`` for embedders and ``chat`` for generators.
        objective: name and options that the model was trained with.
        pooling, normalize, dimensions: how a vector is made; ``dimensions`` are the Matryoshka sizes, largest first.
        query_instruction: text put before a query.
        query_max_length, document_max_length: in tokens.
        base_model: for an adapter, the folder, hub id or preset of its base.
        base_seed: of the random weights of the base, if that is a preset.
    """

    plugin: str
    family: str
    options: dict[str, Any] = field(default_factory=dict)
    style: str = "plain"
    objective: dict[str, Any] = field(default_factory=dict)
    pooling: str = "wmean"
    normalize: bool = True
    dimensions: list[int] = field(default_factory=list)
    query_instruction: str = ""
    query_max_length: int = 512
    document_max_length: int = 2048
    base_model: str | None = None
    base_seed: int | None = None
    versions: dict[str, str] = field(default_factory=_versions)

    def save(self, folder: Path) -> None:
        """Write the card; it appears whole or not at all."""
        write_text(folder / NAME, [json.dumps(asdict(self), indent=2, ensure_ascii=False), "\n"])

    @classmethod
    def read(cls, folder: Path) -> ModelCard | None:
        """The card of a model folder, or ``None`` if it has none (a checkpoint that polylens did not write).

        Raises:
            InputError: the card cannot be read, or breaks its schema.
        """
        path = folder / NAME
        if not path.is_file():
            return None
        value = read_json_object(path)
        schemas.check("polylens", value, str(path))
        return cls(**value)
