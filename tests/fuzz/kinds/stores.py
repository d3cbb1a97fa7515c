"""HDF5 files: shards of our document store, and the original's groups."""

from __future__ import annotations

import base64
import json
import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from fuzz.mutators import HOSTILE, dump, mutate_bytes, mutate_lines, mutate_value, several
from fuzz.outcome import require
from fuzz.samples import DOCUMENTS, encoded, picture, write_store

from polylens.data.documents import DocumentSource
from polylens.data.hdf5_heaps import check_heaps
from polylens.data.store import open_documents
from polylens.data.validate import validate
from polylens.errors import InputError

Change = Callable[[random.Random, h5py.File], None]


def _deleted(rng: random.Random, file: h5py.File) -> None:
    del file[rng.choice(list(file))]


def _retyped(rng: random.Random, file: h5py.File) -> None:
    name = rng.choice(["blob", "end", "text_bytes", "crc32", "id"])
    kind = rng.choice([np.int8, np.float64, np.uint64, "S3", h5py.string_dtype(), np.dtype([("a", "i4")])])
    shape = rng.choice([(), (0,), (6,), (6, 2), (1,), None])
    del file[name]
    file.create_dataset(name, shape, kind) if shape is not None else file.create_dataset(name, data=h5py.Empty("f4"))


def _claimed(rng: random.Random, file: h5py.File) -> None:
    """Terabytes that take no room in the file."""
    name = rng.choice(["blob", "end", "text_bytes", "crc32", "id"])
    kind = file[name].dtype
    del file[name]
    packing = rng.choice([{}, {"compression": "gzip"}])
    file.create_dataset(name, (rng.choice([2**31, 2**40, 2**62]),), kind, chunks=(2**20,), **packing)


def _regrown(rng: random.Random, file: h5py.File) -> None:
    name = rng.choice(["blob", "end", "text_bytes", "crc32", "id"])
    file[name].resize((rng.choice([0, 1, 5, 7, 2**40]),))


def _linked(rng: random.Random, file: h5py.File) -> None:
    name = rng.choice(list(file))
    del file[name]
    file[name] = rng.choice([h5py.ExternalLink("other.h5", "/blob"), h5py.SoftLink("/nowhere"), h5py.SoftLink("/")])


def _outside(rng: random.Random, file: h5py.File) -> None:
    """A data set whose bytes lie in another file."""
    name = rng.choice(["blob", "end", "crc32"])
    old = file[name]
    kind, size = old.dtype, len(old)
    del file[name]
    file.create_dataset(name, (size,), kind, external=[("/etc/passwd", 0, h5py.h5f.UNLIMITED)])


def _group(rng: random.Random, file: h5py.File) -> None:
    name = rng.choice(list(file))
    del file[name]
    file.create_group(name)


def _attribute(rng: random.Random, file: h5py.File) -> None:
    value = rng.choice([0, 2, -1, 2**40, 1.5, float("inf"), "1", b"x", [1, 2], h5py.Empty("i4"), True])
    file.attrs["polylens_format"] = value


def _value(rng: random.Random, file: h5py.File) -> None:
    """One number or id of the index."""
    name = rng.choice(["end", "text_bytes", "crc32", "id", "blob"])
    data = file[name]
    place = rng.randrange(len(data))
    if name == "id":
        data[place] = rng.choice(["", "a.pdf#1", "é", "\udcff".encode("utf-8", "surrogateescape"), b"\xff", "x" * 9])
    else:
        top = int(np.iinfo(data.dtype).max)
        data[place] = rng.choice([0, 1, 2, top, top - 1, min(top, int(data[place]) + 1)])


CHANGES: tuple[Change, ...] = (
    *(_deleted, _retyped, _claimed, _regrown, _linked, _outside, _group, _attribute, _value, _value, _value),
)


class Store:
    """A folder of shards; a byte, a data set or a line of its manifest is changed."""

    def __init__(self, base: Path) -> None:
        self.good = write_store(base / "store")
        self.documents = {document.id: document for document in DOCUMENTS}

    def write(self, rng: random.Random, folder: Path) -> None:
        store = Path(shutil.copytree(self.good, folder / "store"))
        shard = rng.choice(sorted(store.glob("*.h5")))
        what = rng.random()
        if what < 0.5:
            _mutate_file(rng, shard)
        elif what < 0.9:
            with h5py.File(shard, "r+") as file:
                rng.choice(CHANGES)(rng, file)
        else:
            _mutate_manifest(rng, store / "manifest.jsonl")

    def read(self, folder: Path) -> int:
        try:
            source = open_documents([folder / "store"])
        except InputError:
            require(validate(folder / "store").problems, "validate finds nothing in what cannot be opened")
            raise
        lost = self.documents.keys() - set(source.ids())  # under a damaged id, a document is there and refused
        require(len(source.ids()) == len(self.documents), f"{sorted(lost)} are gone without a word")
        bad = [id for id in source.ids() if not self._readable(source, id)]
        require(bool(bad) == bool(validate(folder / "store").problems), f"validate disagrees about {bad}")
        return len(bad)

    def _readable(self, source: DocumentSource, id: str) -> bool:
        try:
            document = source.read(id)
        except InputError:
            return False
        require(document == self.documents.get(id), f"document {id!r} was altered")
        return True

    def commands(self, folder: Path) -> Sequence[Sequence[str]]:
        return commands_of(folder / "store", folder)


def commands_of(store: Path, folder: Path) -> Sequence[Sequence[str]]:
    return [
        ["data", "validate", str(store)],
        ["data", "stats", str(store)],
        ["data", "show", str(store)],
        ["data", "convert", str(store), "--output", str(folder / "command")],
    ]


def _mutate_file(rng: random.Random, path: Path) -> None:
    """Bytes of the file, most often of its structure: the first and the last few thousand."""
    data = path.read_bytes()
    head = rng.choice([2048, 8192, len(data)])
    if rng.random() < 0.5:
        path.write_bytes(several(rng, mutate_bytes, data[:head], 4) + data[head:])
    else:
        path.write_bytes(data[:-head] + several(rng, mutate_bytes, data[-head:], 4))


def _mutate_manifest(rng: random.Random, path: Path) -> None:
    values = [json.loads(line) for line in path.read_text().splitlines()]
    if rng.random() < 0.5:
        place = rng.randrange(len(values))
        values[place] = mutate_value(rng, values[place])
        path.write_bytes("".join(dump(value) + "\n" for value in values).encode("utf-8", errors="surrogatepass"))
    else:
        path.write_bytes(mutate_lines(rng, path.read_bytes()))


class OriginalStore:
    """The original's layout: a group per document with a base64 string; ids with ``/`` are groups within groups."""

    def __init__(self, base: Path) -> None:
        self.good = base / "original.h5"
        with h5py.File(self.good, "w") as file:
            for number, id in enumerate(("page.pdf_0", "sub/page.pdf_1", "sub", "größe.pdf_2")):
                group = file.require_group(id)
                group["image"] = encoded(number)
                group["source"] = "somewhere"
                group["pdf"] = "not a picture"

    def write(self, rng: random.Random, folder: Path) -> None:
        path = Path(shutil.copyfile(self.good, folder / "original.h5"))
        if rng.random() < 0.5:
            _mutate_file(rng, path)
            return
        with h5py.File(path, "r+") as file:
            rng.choice(ORIGINAL_CHANGES)(rng, file)

    def read(self, folder: Path) -> int:
        path = folder / "original.h5"
        try:
            source = open_documents([path])
        except InputError:
            require(validate(path, kind="documents").problems, "validate finds nothing in what cannot be opened")
            raise
        expected = _documents_in(path)
        lost = expected.keys() - set(source.ids())
        require(not lost, f"{sorted(lost)} are gone without a word")
        bad = 0
        for id in source.ids():
            try:
                document = source.read(id)
            except InputError:
                bad += 1
                continue
            require(document.image == expected.get(id), f"document {id!r} was altered")
        require(not bad or validate(path, kind="documents").problems, "validate does not find what cannot be read")
        return bad

    def commands(self, folder: Path) -> Sequence[Sequence[str]]:
        return commands_of(folder / "original.h5", folder)


def _documents_in(path: Path) -> dict[str, bytes | None]:
    """Every group that holds data sets, and its picture if that is plain base64."""
    found: dict[str, bytes | None] = {}

    def visit(group: h5py.Group, path: str) -> None:
        for name in group:
            kind = group.get(name, getclass=True) if isinstance(group.get(name, getlink=True), h5py.HardLink) else None
            if kind is h5py.Group:
                visit(group[name], f"{path}/{name}" if path else name)
            elif path and kind is h5py.Dataset:
                found.setdefault(path, None)
                if name == "image":
                    found[path] = _decoded(group)

    with h5py.File(path, "r", locking=False) as file:
        visit(file, "")
    return found


def _decoded(group: h5py.Group) -> bytes | None:
    try:
        data = group["image"]
        if h5py.check_string_dtype(data.dtype) is not None and data.dtype.hasobject:
            check_heaps(data)  # or h5py itself would hang
        return base64.b64decode(data[()], validate=True) if data.shape == () else None
    except (OSError, LookupError, RuntimeError, ValueError, TypeError):
        return None


def _image_replaced(rng: random.Random, file: h5py.File) -> None:
    group: Any = file[rng.choice(["page.pdf_0", "sub", "sub/page.pdf_1"])]
    del group["image"]
    value = rng.choice([value for value in HOSTILE if isinstance(value, str | int | float) and value is not None])
    safe = value.replace("\0", "") if isinstance(value, str) else value
    choices = [np.void(picture()), np.arange(5), np.array([encoded()], dtype=object), h5py.Empty("f4"), safe, 2.5]
    group["image"] = rng.choice([choice if not isinstance(choice, int) else float(choice) for choice in choices])


def _image_gone(rng: random.Random, file: h5py.File) -> None:
    group: Any = file[rng.choice(["page.pdf_0", "sub", "sub/page.pdf_1"])]
    group.move("image", rng.choice(["Image", "imagf", "picture"])) if rng.random() < 0.5 else group.pop("image")


def _image_claimed(rng: random.Random, file: h5py.File) -> None:
    group: Any = file["page.pdf_0"]
    del group["image"]
    packing = rng.choice([{}, {"compression": "gzip"}])
    group.create_dataset("image", (rng.choice([2**31, 2**40, 2**62]),), np.uint8, chunks=(2**20,), **packing)


def _image_linked(rng: random.Random, file: h5py.File) -> None:
    group: Any = file["page.pdf_0"]
    del group["image"]
    group["image"] = rng.choice(
        [h5py.ExternalLink("other.h5", "/x"), h5py.SoftLink("/nowhere"), h5py.SoftLink("/sub/image"), file["sub"]]
    )


def _image_outside(rng: random.Random, file: h5py.File) -> None:
    group: Any = file["page.pdf_0"]
    del group["image"]
    group.create_dataset("image", (100,), "S1", external=[("/etc/passwd", 0, h5py.h5f.UNLIMITED)])


def _cycle(rng: random.Random, file: h5py.File) -> None:
    group: Any = file["sub"]
    group["again"], group["and_again"] = file["/"], file["sub"]


def _odd_name(rng: random.Random, file: h5py.File) -> None:
    name = rng.choice([b"\xff\xfe", b" ", b"a\nb", b"\xed\xa0\x80", b"x" * 3000, b"."])
    file.id.links.create_hard(name, file.id, b"page.pdf_0") if name != b"." else None


def _link_of_group(rng: random.Random, file: h5py.File) -> None:
    file["more"] = rng.choice([h5py.ExternalLink("original.h5", "/sub"), h5py.SoftLink("/sub"), h5py.SoftLink("/no")])


def _empty_group(rng: random.Random, file: h5py.File) -> None:
    file.create_group("empty")


ORIGINAL_CHANGES: tuple[Change, ...] = (
    *(_image_replaced, _image_replaced, _image_gone, _image_claimed, _image_linked, _image_outside, _cycle),
    *(_odd_name, _link_of_group, _empty_group),
)
