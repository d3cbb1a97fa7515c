"""Vectors on disk: safetensors shards and a manifest.

A folder holds ``vectors-00000.safetensors``, ``vectors-00001.safetensors``, ... and, once all of them are there,
``vectors.json`` (``schemas/vectors.schema.json``). A shard holds the tensor ``vectors``, float32 [rows, D], and in its
metadata, under ``shard``, the JSON object of ``ids`` (a list) and ``manifest`` (the content of ``vectors.json``), so
that any shard tells what it belongs to. The same vectors are the same bytes. Shards appear by rename: a killed run
loses the shards that it had not finished, and no others.

Several ranks encode into one folder like this, and a rerun takes up where the last run stopped::

    writer = VectorWriter(folder, ids=ids, dimensions=2304, rows_per_shard=8192, kind="document", card=card)
    for shard in writer.missing(rank, world_size):
        rows = writer.rows(shard)  # range of global positions: ids[rows.start : rows.stop]
        writer.write(shard, encode(rows))  # [len(rows), D], any float type and device
    barrier()
    if rank == 0:
        writer.finish()
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from polylens.config import schemas
from polylens.config.card import ModelCard
from polylens.config.json_text import read_json_object
from polylens.errors import InputError
from polylens.files import replacing

MANIFEST = "vectors.json"
VERSION = 1


class Vectors(Protocol):
    """Named vectors, on disk (``VectorStore``) or in memory (``MemoryVectors``)."""

    @property
    def dimensions(self) -> int: ...

    def __len__(self) -> int: ...

    def rows(self, start: int, stop: int) -> Tensor:
        """float32 [stop - start, D] on the CPU; not to be written to."""
        ...

    def ids(self) -> Iterator[str]:
        """All ids, in order."""
        ...

    def ids_at(self, positions: Iterable[int]) -> dict[int, str]:
        """The ids of some positions."""
        ...

    def where(self, position: int) -> str:
        """Names a vector in an error message."""
        ...


class MemoryVectors:
    """Vectors that are in memory already.

    Args:
        ids: one per row.
        values: [n, D], any float type and device; kept as float32 on the CPU.

    Raises:
        InputError: an id occurs twice, or the shapes do not agree.
    """

    def __init__(self, ids: Sequence[str], values: Tensor) -> None:
        if values.ndim != 2 or len(values) != len(ids):
            raise InputError(f"{len(ids)} ids need vectors of shape [{len(ids)}, D], not {list(values.shape)}")
        _digest(ids)
        self._ids = ids
        self._values = values.detach().to("cpu", torch.float32).contiguous()

    @property
    def dimensions(self) -> int:
        return self._values.shape[1]

    def __len__(self) -> int:
        return len(self._ids)

    def rows(self, start: int, stop: int) -> Tensor:
        return self._values[start:stop]

    def ids(self) -> Iterator[str]:
        return iter(self._ids)

    def ids_at(self, positions: Iterable[int]) -> dict[int, str]:
        return {position: self._ids[position] for position in positions}

    def where(self, position: int) -> str:
        return f"the vector of {self._ids[position]!r}"


class VectorWriter:
    """Writes a folder of vectors shard by shard; ranks may write different shards at the same time.

    Args:
        folder: made if it is not there. One that holds a part of the same vectors is completed.
        ids: of all vectors, in their order, the same list on every rank.
        dimensions: D.
        rows_per_shard: shard ``i`` holds the rows from ``i * rows_per_shard`` on.
        kind: what the vectors stand for.
        card: of the encoder; ``card.normalize`` says whether vectors have length 1.
        fingerprint: of the encoder's weights, if known: two checkpoints may have the same card.

    Raises:
        InputError: an id occurs twice; the folder holds vectors of another model or of other ids (the difference is
            named).
    """

    def __init__(
        self,
        folder: Path,
        *,
        ids: Sequence[str],
        dimensions: int,
        rows_per_shard: int,
        kind: Literal["query", "document"],
        card: ModelCard,
        fingerprint: str = "",
    ) -> None:
        self.folder = Path(folder)
        self.ids = ids
        self.dimensions = dimensions
        self.rows_per_shard = rows_per_shard
        self.manifest = _manifest(ids, dimensions, rows_per_shard, kind, card, fingerprint)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._check_folder()

    @property
    def shards(self) -> int:
        """How many shards there will be."""
        return -(-len(self.ids) // self.rows_per_shard)

    def rows(self, shard: int) -> range:
        """Global positions of the rows of a shard."""
        start = shard * self.rows_per_shard
        return range(start, min(start + self.rows_per_shard, len(self.ids)))

    def missing(self, rank: int = 0, world_size: int = 1) -> list[int]:
        """Shards ``rank``, ``rank + world_size``, ... that are still to be written."""
        return [shard for shard in range(rank, self.shards, world_size) if not self.has(shard)]

    def has(self, shard: int) -> bool:
        """Whether a shard is there, whole. One that cannot be read counts as missing and is written again.

        Raises:
            InputError: the shard is of another model or of other ids.
        """
        metadata = _readable_metadata(_shard_path(self.folder, shard))
        if metadata is None:
            return False
        self._check_same(metadata["manifest"])
        rows = self.rows(shard)
        return metadata["ids"] == list(self.ids[rows.start : rows.stop])

    def write(self, shard: int, vectors: Any) -> Path:
        """Write a shard; it appears whole or not at all.

        Args:
            vectors: tensor or array [rows, D].

        Raises:
            InputError: a vector is not finite (its id is named).
        """
        rows = self.rows(shard)
        ids = list(self.ids[rows.start : rows.stop])
        values = torch.as_tensor(vectors).detach().to("cpu", torch.float32).contiguous()
        if values.shape != (len(rows), self.dimensions):
            raise ValueError(f"shard {shard} needs [{len(rows)}, {self.dimensions}], got {list(values.shape)}")
        bad = (~values.isfinite().all(dim=1)).nonzero().flatten().tolist()
        if bad:
            kind = self.manifest["kind"]
            raise InputError(f"{len(bad)} vectors are not finite, the first is of the {kind} {ids[bad[0]]!r}")
        path = _shard_path(self.folder, shard)
        with replacing(path) as partial:
            # One entry: safetensors writes several in an order that differs from file to file.
            save_file({"vectors": values}, partial, {"shard": json.dumps({"ids": ids, "manifest": self.manifest})})
        return path

    def finish(self) -> Path:
        """Write ``vectors.json``, on one rank, when all ranks have written their shards.

        Raises:
            InputError: shards are missing.
        """
        missing = self.missing()
        if missing:
            raise InputError(f"{self.folder}: {len(missing)} of {self.shards} shards are missing: {missing[:5]}")
        path = self.folder / MANIFEST
        with replacing(path) as partial:
            partial.write_text(json.dumps(self.manifest, indent=2) + "\n", encoding="utf-8")
        return path

    def _check_folder(self) -> None:
        manifest = self.folder / MANIFEST
        if manifest.is_file():
            self._check_same(_read_manifest(manifest))
        first = next(self._readable_shards(), None)
        if first is not None:
            self._check_same(first["manifest"])

    def _readable_shards(self) -> Iterator[dict[str, Any]]:
        """Metadata of every shard that is there, in order."""
        for path in sorted(self.folder.glob("vectors-*.safetensors")):
            metadata = _readable_metadata(path)
            if metadata is not None:
                yield metadata

    def _check_same(self, manifest: Mapping[str, Any]) -> None:
        found = differences(manifest, self.manifest)
        if found.pop("ids_sha256", None):
            found["ids"] = self._ids_difference()
        if found:
            raise InputError(
                f"{self.folder} holds other vectors: {'; '.join(found.values())}. "
                "Give another folder, or remove this one."
            )

    def _ids_difference(self) -> str:
        """The first id that the shards have at another place, or not at all."""
        own, theirs = iter(self.ids), (id for shard in self._readable_shards() for id in shard["ids"])
        for position, (there, here) in enumerate(zip(theirs, own, strict=False)):
            if there != here:
                return f"vector {position} is of {there!r} there and of {here!r} here"
        return "the ids are others, or in another order"


class VectorStore:
    """Reads a folder of vectors; shards are memory-mapped and opened when they are needed, one at a time.

    Raises:
        InputError: the folder is not one of vectors, is not finished, or a shard is missing or broken.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self.manifest = _read_manifest(self.folder / MANIFEST)
        self.kind: str = self.manifest["kind"]
        self.rows_per_shard: int = self.manifest["rows_per_shard"]
        self.normalized: bool = self.manifest["normalized"]
        self.fingerprint: str = self.manifest["fingerprint"]
        self._opened: tuple[int, Tensor, list[str]] | None = None
        for shard in range(self.shards):
            if not _shard_path(self.folder, shard).is_file():
                raise InputError(f"{_shard_path(self.folder, shard)} is missing: encode again, the rest is kept")

    @property
    def dimensions(self) -> int:
        return self.manifest["dimensions"]

    @property
    def shards(self) -> int:
        return -(-len(self) // self.rows_per_shard)

    @property
    def card(self) -> dict[str, Any]:
        """``polylens.json`` of the encoder."""
        return self.manifest["card"]

    def __len__(self) -> int:
        return self.manifest["count"]

    def rows(self, start: int, stop: int) -> Tensor:
        """float32 [stop - start, D]: a view of the mapped file if one shard holds all rows, else a copy."""
        parts = []
        while start < stop:
            shard, first = divmod(start, self.rows_per_shard)
            last = min(first + stop - start, self.rows_per_shard)
            parts.append(self._shard(shard)[0][first:last])
            start += last - first
        if not parts:
            return torch.zeros(0, self.dimensions)
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def ids(self) -> Iterator[str]:
        """All ids, in order; those of one shard are in memory at a time."""
        for shard in range(self.shards):
            yield from self._shard(shard)[1]

    def ids_at(self, positions: Iterable[int]) -> dict[int, str]:
        """The ids of some positions; every shard is opened once at most."""
        found: dict[int, str] = {}
        for shard, group in groupby(sorted(set(positions)), lambda position: position // self.rows_per_shard):
            ids = self._shard(shard)[1]
            found.update((position, ids[position % self.rows_per_shard]) for position in group)
        return found

    def where(self, position: int) -> str:
        path = _shard_path(self.folder, position // self.rows_per_shard)
        return f"{path}: the vector of {self.ids_at([position])[position]!r}"

    def _shard(self, shard: int) -> tuple[Tensor, list[str]]:
        if self._opened is None or self._opened[0] != shard:
            self._opened = (shard, *self._open(_shard_path(self.folder, shard), shard))
        return self._opened[1:]

    def _open(self, path: Path, shard: int) -> tuple[Tensor, list[str]]:
        rows = min(self.rows_per_shard, len(self) - shard * self.rows_per_shard)
        try:
            with safe_open(path, "pt") as file:
                metadata, values = _metadata(file), file.get_tensor("vectors")
        except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path} is broken ({error}): remove it and encode again, the rest is kept") from error
        found = differences(metadata["manifest"], self.manifest)
        if found or len(metadata["ids"]) != rows or values.shape != (rows, self.dimensions):
            why = "; ".join(found.values()) or f"{len(metadata['ids'])} ids, vectors {list(values.shape)}"
            raise InputError(f"{path} does not belong to {self.folder / MANIFEST}: {why}")
        if values.dtype != torch.float32:
            raise InputError(f"{path} holds {values.dtype}, vectors are stored as float32")
        return values, metadata["ids"]


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> dict[str, str]:
    """What two manifests (or cards) disagree on: key -> ``key is X there and Y here``.

    Versions of libraries may differ, and so may a fingerprint that one side does not know.
    """
    there, here = _flat(there), _flat(here)
    found = {}
    for key in sorted({*there, *here}):
        old, new = there.get(key), here.get(key)
        if old != new and not key.startswith("card.versions.") and not (key == "fingerprint" and not (old and new)):
            found[key] = f"{key} is {_short(old)} there and {_short(new)} here"
    return found


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:12]}…{text[-12:]}"  # fingerprints may share their beginning


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, item in value.items():
        flat |= _flat(item, f"{prefix}{key}.") if isinstance(item, Mapping) else {f"{prefix}{key}": item}
    return flat


def _manifest(
    ids: Sequence[str], dimensions: int, rows_per_shard: int, kind: str, card: ModelCard, fingerprint: str
) -> dict[str, Any]:
    manifest = {
        "version": VERSION,
        "kind": kind,
        "count": len(ids),
        "dimensions": dimensions,
        "rows_per_shard": rows_per_shard,
        "normalized": card.normalize,
        "ids_sha256": _digest(ids),
        "fingerprint": fingerprint,
        "card": asdict(card),
    }
    schemas.check("vectors", manifest, MANIFEST)
    return json.loads(json.dumps(manifest))  # tuples become lists, as they will when it is read back


def _digest(ids: Iterable[str]) -> str:
    seen: set[str] = set()
    digest = hashlib.sha256()
    for id in ids:
        if id in seen:
            raise InputError(f"the id {id!r} occurs twice: a result could not say which vector it means")
        seen.add(id)
        digest.update(json.dumps(id).encode() + b"\n")
    return digest.hexdigest()


def _shard_path(folder: Path, shard: int) -> Path:
    return folder / f"vectors-{shard:05d}.safetensors"


def _metadata(file: Any) -> dict[str, Any]:
    """``ids`` and ``manifest`` of an open shard."""
    found = json.loads(file.metadata()["shard"])
    return {key: found[key] for key in ("ids", "manifest")}


def _readable_metadata(path: Path) -> dict[str, Any] | None:
    """``ids`` and ``manifest`` of a shard, or ``None`` if it is not there or not whole."""
    try:
        with safe_open(path, "pt") as file:
            return _metadata(file)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError):
        return None


def _read_manifest(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise InputError(f"{path} is not there: give a folder that `polylens encode` has finished")
    manifest = read_json_object(path)
    schemas.check("vectors", manifest, str(path))
    return manifest
