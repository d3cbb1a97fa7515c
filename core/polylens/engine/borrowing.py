"""Weights of components that a checkpoint leaves to another model, or keeps in a file of its own."""

from __future__ import annotations

from collections.abc import Iterator, Set
from pathlib import Path

from torch import Tensor
from transformers.core_model_loading import WeightRenaming, apply_renamings

from polylens.composition import Borrowed
from polylens.contracts import ModelFamily
from polylens.engine.sources import ModelSource, find_lender
from polylens.engine.tensor_files import PartFile, part_files

_PREFIX = "base_model.model."
"""Of names in files that were written while an adapter was on the model."""


def lent_files(found: ModelSource, missing: Set[str]) -> list[PartFile]:
    """Files of weights that the checkpoint lacks, under their names in the model.

    Args:
        missing: names of weights in the model.

    Raises:
        InputError: a model that should hold them is not found, or cannot be read.
    """
    files = []
    for name, part in found.borrowed.items():
        paths = found.family.components[name]
        wanted = {key for key in missing if any(key.startswith(f"{path}.") for path in paths)}
        if wanted:
            files += _own_files(found, part, wanted) or _files_of_lender(found, name, part, wanted)
    return files


def lent_weights(found: ModelSource, missing: Set[str]) -> Iterator[tuple[str, Tensor]]:
    """The same weights, one at a time."""
    for file in lent_files(found, missing):
        with file.reading() as read:
            yield from ((key, read(key)) for key in file.entries)


def name_in_model(family: ModelFamily, key: str) -> str:
    """The name in the model of a weight that older programs named as one of the family's layouts does."""
    renames = [WeightRenaming(*pair) for layout in family.layouts for pair in layout.renames.items()]
    return apply_renamings(key.removeprefix(_PREFIX), renames)


def _own_files(found: ModelSource, part: Borrowed, wanted: Set[str]) -> list[PartFile]:
    def whole(key: str) -> str | None:
        name = name_in_model(found.family, key)
        return name if name in wanted else None

    paths = [found.folder / name for name in part.files]
    return [PartFile(path, whole) for path in paths if path.is_file()]


def _files_of_lender(found: ModelSource, name: str, part: Borrowed, wanted: Set[str]) -> list[PartFile]:
    if not part.prefixes:
        return []

    def whole(key: str) -> str | None:
        return next((prefix + key for prefix in part.prefixes if prefix + key in wanted), None)

    folder: Path = find_lender(found, name)
    return part_files(folder, whole)
