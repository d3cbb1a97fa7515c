"""Weights on disk, read and written one by one, so that a model need not fit into memory."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from math import prod
from operator import add
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import torch
from safetensors import safe_open
from torch import Tensor

from polylens.config.json_text import read_json_object
from polylens.engine.reading import refusing
from polylens.errors import InputError

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_PICKLED = (".bin", ".pt", ".pth")
_FOLDERS = (SINGLE, INDEX, "pytorch_model.bin", "pytorch_model.bin.index.json")
"""Where the weights of a model folder are, in the order in which transformers looks for them."""

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}

Read = Callable[[str], Tensor]


@dataclass(frozen=True, slots=True)
class Entry:
    """What a file says of one tensor."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @classmethod
    def of(cls, tensor: Tensor) -> Entry:
        return cls(tensor.dtype, tuple(tensor.shape))

    @property
    def numel(self) -> int:
        return prod(self.shape)

    @property
    def size(self) -> int:
        """Bytes."""
        return self.numel * self.dtype.itemsize

    def cast(self, dtype: torch.dtype | None) -> Entry:
        """With another type, if there is one and these are floating-point numbers."""
        return Entry(dtype, self.shape) if dtype is not None and self.dtype.is_floating_point else self


class TensorFile:
    """A file of weights: safetensors, or one of torch, of which tensors alone are loaded.

    Attributes:
        entries: name -> type and shape.

    Raises:
        InputError: it is damaged, or holds more than tensors.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._refusing():
            self.entries = self._pickled_entries() if self._is_pickled else self._entries()

    @property
    def _is_pickled(self) -> bool:
        return self.path.suffix in _PICKLED

    @contextmanager
    def reading(self) -> Iterator[Read]:
        """Tensors by name, each in memory of its own, which it gives back when it is let go."""
        with ExitStack() as stack:
            with self._refusing():
                if self._is_pickled:
                    found = self._load("cpu")
                    get = lambda name: found[name].clone()  # noqa: E731  # out of pages that others may share
                else:
                    get = stack.enter_context(safe_open(self.path, framework="pt", backend="pread")).get_tensor

            def read(name: str) -> Tensor:
                with self._refusing():
                    return get(name)

            yield read

    def read(self, name: str) -> Tensor:
        """One tensor."""
        with self.reading() as read:
            return read(name)

    def _refusing(self) -> AbstractContextManager[None]:
        return refusing(f"{self.path}: the weights cannot be read")

    def _entries(self) -> dict[str, Entry]:
        with safe_open(self.path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  # not a mapping
            return {name: Entry(_DTYPES[part.get_dtype()], tuple(part.get_shape())) for name, part in slices.items()}

    def _pickled_entries(self) -> dict[str, Entry]:
        return {name: Entry.of(tensor) for name, tensor in self._load("meta").items()}

    def _load(self, device: str) -> dict[str, Tensor]:
        if not self.path.stat().st_size:
            return {}
        mapped = is_zipfile(self.path)  # as torch writes them since version 1.6
        found = torch.load(self.path, map_location=device, mmap=mapped, weights_only=True)
        if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
            raise InputError(f"{self.path}: not a mapping of names to tensors")
        return found


class PartFile(TensorFile):
    """A file of a part of a model, under the names that its weights have in the whole.

    Weights under an adapter lose what marks them, and those of the adapter itself are left out: they lie elsewhere.

    Args:
        name: gives the name in the whole, or ``None`` for what is left out.
    """

    def __init__(self, path: Path, name: Callable[[str], str | None]) -> None:
        super().__init__(path)
        names = {key: name(key.replace(".base_layer.", ".")) for key in self.entries if ".lora_" not in key}
        self._inside = {whole: key for key, whole in names.items() if whole is not None}
        self.entries = {whole: self.entries[key] for whole, key in self._inside.items()}

    @contextmanager
    def reading(self) -> Iterator[Read]:
        with super().reading() as read:
            yield lambda name: read(self._inside[name])


def holds_weights(folder: Path) -> bool:
    """Whether the folder has weights of a whole model."""
    return _whole(folder) is not None


def _whole(folder: Path) -> Path | None:
    return next((folder / name for name in _FOLDERS if (folder / name).is_file()), None)


def weight_files(folder: Path, parts: Mapping[str, str] | None = None) -> list[TensorFile]:
    """The files that hold the weights of a model folder.

    Args:
        parts: folders inside it that hold parts of the model -> what their names begin with in the whole.

    Raises:
        InputError: there are none, one is missing or damaged, or one is named outside the folder.
    """
    if parts:
        return [file for name, prefix in parts.items() for file in part_files(folder / name, partial(add, prefix))]
    return [TensorFile(path) for path in _paths(folder)]


def part_files(folder: Path, name: Callable[[str], str | None]) -> list[PartFile]:
    """The files of a folder that holds one part; ``name`` as in ``PartFile``."""
    return [PartFile(path, name) for path in _paths(folder)]


def _paths(folder: Path) -> list[Path]:
    found = _whole(folder)
    if found is None:
        raise InputError(f"{folder}: no weights there: none of {', '.join(_FOLDERS)}")
    names = _indexed(found) if found.suffix == ".json" else [found.name]
    return [folder / name for name in names]


def _indexed(index: Path) -> list[str]:
    """Files of an index, each once, in order."""
    where: Any = read_json_object(index).get("weight_map")
    if not isinstance(where, dict) or not all(isinstance(name, str) for name in where.values()):
        raise InputError(f"{index}: /weight_map is not a mapping of weights to files")
    names = sorted(set(where.values()))
    for name in names:
        if Path(name).name != name or not (index.parent / name).is_file():
            raise InputError(f"{index}: /weight_map names {name!r}, which is no file of that folder")
    return names


def write_tensors(path: Path, entries: Mapping[str, Entry], make: Read, done: Callable[[int], object]) -> None:
    """Write a safetensors file while its tensors are made: one at a time is in memory.

    The library itself writes whole files from memory. The format is the length of a JSON header, the header, and the
    tensors one after another (https://huggingface.co/docs/safetensors, "Format"); wide types come first, so that every
    tensor is aligned.

    Args:
        make: gives the tensor of a name, with the type and the shape of its entry.
        done: told the bytes of each tensor once it is written.

    Raises:
        InputError: a type that the format does not have.
    """
    unknown = [f"{name} is {entry.dtype}" for name, entry in entries.items() if entry.dtype not in _NAMES]
    if unknown:
        raise InputError(f"{path.name}: safetensors cannot hold {unknown[0]}")
    names = sorted(entries, key=lambda name: -entries[name].dtype.itemsize)
    with path.open("wb") as file:
        file.write(_header(names, entries))
        for name in names:
            tensor = make(name).detach().contiguous()
            if Entry.of(tensor) != entries[name]:
                raise ValueError(f"{name}: {Entry.of(tensor)} was made, not {entries[name]}")
            file.write(tensor.reshape(-1).view(torch.uint8).numpy().data)
            del tensor
            done(entries[name].size)


def _header(names: list[str], entries: Mapping[str, Entry]) -> bytes:
    place, fields = 0, {}
    for name in names:
        entry = entries[name]
        offsets = [place, place + entry.size]
        fields[name] = {"dtype": _NAMES[entry.dtype], "shape": list(entry.shape), "data_offsets": offsets}
        place = offsets[1]
    text = json.dumps({"__metadata__": {"format": "pt"}, **fields}, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text
