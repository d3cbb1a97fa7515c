"""Files that claim, lend or hide what they do not hold."""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from polylens.data.documents import Document
from polylens.data.hdf5 import plain_dataset
from polylens.data.store import DocumentWriter, open_documents
from polylens.data.validate import validate
from polylens.errors import InputError


def replaced(file: h5py.File, name: str, *args, **kwargs) -> None:
    del file[name]
    file.create_dataset(name, *args, **kwargs)


OTHER_FILE = [("other", 0, h5py.h5f.UNLIMITED)]
DAMAGE: dict[str, Callable[[h5py.File], None]] = {
    "claims terabytes": lambda file: file["end"].resize((2**40,)),
    "claims terabytes, packed": lambda file: replaced(file, "end", (2**40,), "u8", chunks=(64,), compression="gzip"),
    "claims a large chunk": lambda file: replaced(file, "blob", (8,), "u1", maxshape=(None,), chunks=(2**31,)),
    "lies in another file": lambda file: replaced(file, "blob", (100,), "u1", external=OTHER_FILE),
    "is of another type": lambda file: replaced(file, "crc32", (4,), "f4"),
    "is of another shape": lambda file: replaced(file, "end", (2, 2), "u8"),
    "is a single value": lambda file: replaced(file, "end", (), "u8"),
    "has no value": lambda file: replaced(file, "id", data=h5py.Empty("f4")),
    "is missing": lambda file: file.pop("id"),
    "is a group": lambda file: (file.pop("blob"), file.create_group("blob")),
    "is a link": lambda file: (file.pop("blob"), file.__setitem__("blob", h5py.ExternalLink("x.h5", "/blob"))),
    "ends early": lambda file: file["blob"].resize((len(file["blob"]) + 1,)),
    "has an odd format": lambda file: file.attrs.__setitem__("polylens_format", float("inf")),
    "has an id that is no text": lambda file: file["id"].__setitem__(0, b"\xff"),
    "has no id": lambda file: file["id"].__setitem__(0, ""),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_shard_is_refused(store, damage):
    with h5py.File(store / "documents-00000.h5", "r+") as file:
        DAMAGE[damage](file)
    with pytest.raises(InputError, match=r"damaged|not whole"):
        open_documents([store / "documents-00000.h5"]).ids()
    assert validate(store).problems


def test_the_border_between_picture_and_text_is_guarded(tmp_path, picture):
    with DocumentWriter(tmp_path) as writer:
        writer.write(Document("both", picture(), "text"))
        writer.write(Document("page", picture()))
    with h5py.File(tmp_path / "documents-00000.h5", "r+") as file:
        file["text_bytes"][:] = [3, 1]
    for id in ("both", "page"):
        with pytest.raises(InputError, match="checksum does not match"):
            open_documents([tmp_path]).read(id)


@pytest.mark.parametrize(
    "line", [b"\xff\xfe", b'{"shard": 5}', b'{"shard": []}', b"[" * 5000, b'{"shard": "documents-00000.h5"}']
)
def test_a_damaged_manifest_is_refused_with_its_line(store, line):
    path = store / "manifest.jsonl"
    path.write_bytes(line + b"\n" + path.read_bytes())
    with pytest.raises(InputError, match=r"manifest\.jsonl:1: .*delete this damaged line"):
        open_documents([store])


@pytest.fixture
def original(tmp_path) -> Callable[..., Path]:
    """A file of the original's layout with one good page, changed by a function."""

    def make(change: Callable[[h5py.File], object], picture: bytes = b"x") -> Path:
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file["good/image"] = file["bad/image"] = base64.b64encode(picture).decode()
            file["bad/pdf"] = "x"
            change(file)
        return tmp_path / "a.h5"

    return make


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda file: file.pop("bad/image"), "has no picture"),
        (lambda file: (file.pop("bad"), file.create_group("bad")), "has no picture"),
        (lambda file: replaced(file, "bad/image", (2**40,), "u1", chunks=(64,)), "more than the file can hold"),
        (lambda file: replaced(file, "bad/image", (9,), "S1", external=OTHER_FILE), "lie in another file"),
        (lambda file: replaced(file, "bad/image", data=[1, 2]), "not one base64 string"),
        (lambda file: replaced(file, "bad/image", data="!"), "not valid base64"),
        (lambda file: (file.pop("bad"), file.__setitem__("bad", h5py.SoftLink("/good"))), "'bad' is a link"),
        (lambda file: (file.pop("bad"), file.__setitem__("bad", h5py.ExternalLink("b.h5", "/"))), "'bad' is a link"),
        (lambda file: (file.pop("bad/image"), file["bad"].__setitem__("image", h5py.SoftLink("/x"))), "is a link"),
    ],
)
def test_a_document_without_a_picture_is_named_not_left_out(original, change, message):
    path = original(change)
    source = open_documents([path])
    assert sorted(source.ids()) == ["bad", "good"]
    assert source.read("good").image == b"x"
    with pytest.raises(InputError, match=f"document 'bad' .*{message}|document 'bad': {message}|'bad'.*{message}"):
        source.read("bad")
    assert any("'bad'" in problem for problem in validate(path).problems)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda file: file["bad"].__setitem__("again", file["/"]), "stands in it twice"),
        (lambda file: file.id.links.create_hard(b"\xff", file.id, b"bad"), "is damaged"),
        (lambda file: file.move("bad", b"\xff"), "is damaged"),
    ],
)
def test_groups_that_no_id_can_name_are_refused(original, change, message):
    with pytest.raises(InputError, match=message):
        open_documents([original(change)])


def test_a_data_set_as_large_as_the_file_holds_is_read(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["values"] = np.arange(5000)
        assert plain_dataset(file, "values").shape == (5000,)


def heap_of(path, name):
    """Place of the heap that holds a string."""
    with h5py.File(path) as file:
        data = path.read_bytes()[file[name].id.get_offset() :]
    return struct.unpack("<IQI", data[:16])[1]


@pytest.mark.parametrize(
    ("place", "content", "message"),
    [
        (16 + 16 + 8, b"\0" * 64, "the heap of its strings is damaged"),  # HDF5 itself would go on for ever
        (16 + 8, b"\xff" * 8, "the heap of its strings is damaged"),
        (0, b"COLG", "there is no heap where its strings should be"),
        (8, b"\xff" * 8, "there is no heap where its strings should be"),
    ],
)
def test_a_damaged_heap_of_strings_is_refused(tmp_path, place, content, message):
    path = tmp_path / "strings.h5"
    with h5py.File(path, "w") as file:
        file["one"] = "a string"
        file["two"] = "another"
    with h5py.File(path) as file:
        assert plain_dataset(file, "two")[()] == b"another"
    start = heap_of(path, "one") + place
    damaged = bytearray(path.read_bytes())
    damaged[start : start + len(content)] = content[: len(damaged) - start]
    path.write_bytes(damaged)
    with h5py.File(path) as file, pytest.raises(ValueError, match=message):
        plain_dataset(file, "two")


def test_a_heap_behind_the_end_is_refused(tmp_path):
    path = tmp_path / "strings.h5"
    with h5py.File(path, "w") as file:
        file["one"] = "a string"
    whole = bytearray(path.read_bytes())
    with h5py.File(path) as file:
        place = file["one"].id.get_offset() + 4
    whole[place : place + 8] = struct.pack("<Q", len(whole) + 8)
    path.write_bytes(whole)
    with h5py.File(path) as file, pytest.raises(ValueError, match="behind the end"):
        plain_dataset(file, "one")
