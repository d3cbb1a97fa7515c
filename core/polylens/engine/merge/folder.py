"""A model folder that is written weight by weight, and appears whole or not at all."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from tqdm import tqdm

from polylens.config.card import ModelCard
from polylens.engine.locks import locked
from polylens.engine.merge.heap import Heap
from polylens.engine.saving import PARTIAL, copy_small_files, publish, remove
from polylens.engine.tensor_files import INDEX, SINGLE, Entry, Read, TensorFile, write_tensors
from polylens.errors import InputError, closest
from polylens.files import write_text

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}


@dataclass(frozen=True, slots=True)
class Merged:
    """What a merge leaves behind.

    Attributes:
        folder: a complete model folder.
        parameters: numbers in its weights.
        made_of: one line that says what went into it.
    """

    folder: Path
    parameters: int
    made_of: str

    def __str__(self) -> str:
        return f"{self.made_of}: a model of {self.parameters:,} weights is in {self.folder}"


class Shard(Protocol):
    """A file of weights that is to be written."""

    @property
    def name(self) -> str: ...

    @property
    def entries(self) -> Mapping[str, Entry]: ...

    def reading(self) -> AbstractContextManager[Read]:
        """What gives the weights by name, one at a time."""
        ...


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A folder to write into, which gets the name ``target`` when the block ends without an error.

    Whoever is killed inside leaves ``.<name>.tmp`` and ``.<name>.lock`` at most, which the next call removes.

    Raises:
        InputError: there is something of that name already, another process makes it now, or it has no place.
    """
    target = target.expanduser().resolve()
    _make_place(target.parent)
    with locked(target.with_name(f".{target.name}.lock"), target):
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise InputError(f"{target} already exists: nothing is ever overwritten; choose another output folder")
        partial = target.with_name(f".{target.name}{PARTIAL}")
        try:
            remove(partial)
            partial.mkdir()
            yield partial
            publish(partial, target)
        except BaseException:  # an interrupt too: a part of a model is of no use, and the disk may be full
            shutil.rmtree(partial, ignore_errors=True)
            raise


def _make_place(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--output-dir: the folder {folder} cannot be made: {error.strerror or error}") from error


def write_shards(folder: Path, shards: Sequence[Shard]) -> int:
    """Write the files of weights and their index; gives the number of parameters.

    Raises:
        InputError: the disk has too little room for them.
    """
    total = sum(entry.size for shard in shards for entry in shard.entries.values())
    free = shutil.disk_usage(folder).free
    if free < total:
        raise InputError(
            f"{folder.parent}: the weights need {total:,} bytes, and the disk has {free:,} left: make room"
        )
    heap = Heap()
    with tqdm(total=total, unit="B", unit_scale=True, desc="merge", disable=None) as bar:

        def written(size: int) -> None:
            bar.update(size)
            heap.passed(size)

        for shard in shards:
            with shard.reading() as make:
                write_tensors(folder / shard.name, shard.entries, make, written)
    if [shard.name for shard in shards] != [SINGLE]:
        where = {name: shard.name for shard in shards for name in shard.entries}
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(where.items()))}
        write_text(folder / INDEX, [json.dumps(index, indent=2), "\n"])
    return sum(entry.numel for shard in shards for entry in shard.entries.values())


def write_around(
    folder: Path, source: Path, config: Mapping[str, Any], card: ModelCard, dtype: torch.dtype | None
) -> None:
    """Everything but weights: the small files of ``source``, ``config.json`` and ``polylens.json``.

    Args:
        dtype: that the weights were cast to, if they were.
    """
    copy_small_files(source, folder)
    config = dict(config)
    if dtype is not None:
        config["torch_dtype" if "torch_dtype" in config else "dtype"] = str(dtype).removeprefix("torch.")
    write_text(folder / "config.json", [json.dumps(config, indent=2, ensure_ascii=False), "\n"])
    versions = ModelCard(plugin="", family="").versions
    dataclasses.replace(card, base_model=None, base_seed=None, versions=versions).save(folder)


def shard_names(files: Sequence[TensorFile]) -> list[str]:
    """Names of the new files: those of the old ones, or new ones where two agree or one is no safetensors file."""
    names = [file.path.name for file in files]
    if len(set(names)) == len(names) and all(name.endswith(".safetensors") for name in names):
        return names
    return [shard_name(number, len(files)) for number in range(len(files))]


def shard_name(number: int, count: int) -> str:
    """As transformers names them.

    >>> shard_name(0, 1), shard_name(1, 4)
    ('model.safetensors', 'model-00002-of-00004.safetensors')
    """
    return SINGLE if count == 1 else f"model-{number + 1:05d}-of-{count:05d}.safetensors"


def wanted_dtype(name: str | None) -> torch.dtype | None:
    """The type that floating-point weights are cast to; ``None`` and ``auto`` leave each as it is.

    Raises:
        InputError: there is no such type.
    """
    if name in (None, "auto"):
        return None
    if name not in DTYPES:
        raise InputError(f"dtype {name!r}{closest(str(name), DTYPES)} is none of auto, {', '.join(DTYPES)}")
    return DTYPES[name]
