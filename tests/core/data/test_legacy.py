import base64
import json
import pickle

import h5py
import pytest

from polylens.data.legacy import Hdf5Documents, JsonlDocuments
from polylens.data.store import Document, open_documents
from polylens.errors import InputError


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def write_lines(path, *lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_groups_within_groups_are_one_id(original_h5, picture):
    documents = Hdf5Documents(original_h5)
    assert sorted(documents.ids()) == ["page.pdf_0", "sub", "sub/page.pdf_1"]
    assert documents.read("sub/page.pdf_1") == Document("sub/page.pdf_1", picture("green"))
    assert documents.read("sub").image == picture("blue")
    copy = pickle.loads(pickle.dumps(documents))
    assert copy.read("page.pdf_0").image == picture("red")


def test_the_layout_is_found_out(original_h5, tmp_path):
    assert isinstance(open_documents([original_h5]), Hdf5Documents)
    folder = tmp_path / "folder"
    folder.mkdir()
    original_h5.rename(folder / "val_pid_image.h5")
    assert len(open_documents([folder])) == 3


@pytest.mark.parametrize("value", ["no base64!", "", b64(b"x") + "="])
def test_broken_base64_names_the_document(tmp_path, value):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_group("page 7").create_dataset("image", data=value)
    with pytest.raises(InputError, match=r"a\.h5: document 'page 7'"):
        Hdf5Documents(tmp_path / "a.h5").read("page 7")


def test_foreign_hdf5_files_are_refused(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["weights"] = [1, 2, 3]
        file.create_group("g")["pdf"] = "x"
    with pytest.raises(InputError, match="has no documents"):
        open_documents([tmp_path / "a.h5"])
    (tmp_path / "b.h5").write_bytes(b"not HDF5")
    with pytest.raises(InputError, match=r"b\.h5 is not a readable HDF5 file"):
        open_documents([tmp_path / "b.h5"])


def test_pages_of_the_originals_evaluation_files(tmp_path, picture):
    page = {"text": None, "image": b64(picture()), "id": "p1", "answer": None}
    path = write_lines(
        tmp_path / "docvqa-eval-docs.jsonl",
        page,
        {"_id": 5, "text": "BEIR", "title": "Of"},
        page,
        {"filename": "f", "image_base64": b64(picture("blue"))},
    )
    documents = open_documents([tmp_path])
    assert list(documents.ids()) == ["p1", "5", "f"]
    assert documents.read("p1") == Document("p1", picture())
    assert documents.read("5") == Document("5", None, "Of BEIR")
    assert pickle.loads(pickle.dumps(JsonlDocuments(path))).read("f").image == picture("blue")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ({"text": "x"}, "2: the line has no id; it is looked for under _id, id, text_id, sample_id, filename"),
        ({"_id": "a", "text": ""}, "2: /text: the document has neither a text nor an image"),
        ({"_id": "a", "text": 5}, "2: /text: "),
        ({"_id": "a", "image": ["x"]}, "2: /image: "),
        ({"_id": True, "text": "x"}, "2: /_id: an id must be a string, not bool"),
        ({"_id": "first", "text": "other"}, "2: document 'first' is another one than that of "),
        (["x"], "2: a line must be a JSON object, not list"),
    ],
)
def test_bad_document_lines(tmp_path, line, reason):
    path = write_lines(tmp_path / "corpus.jsonl", {"_id": "first", "text": "x"}, line)
    with pytest.raises(InputError) as caught:
        open_documents([path])
    assert str(caught.value).startswith(f"{path}:{reason}")


def test_bad_pictures_are_found_when_they_are_read(tmp_path):
    path = write_lines(tmp_path / "corpus.jsonl", {"_id": "a", "image": "%%"})
    with pytest.raises(InputError, match="document 'a': the picture is not valid base64"):
        open_documents([path]).read("a")


def test_a_file_that_changes_under_its_reader(tmp_path):
    path = write_lines(tmp_path / "corpus.jsonl", {"_id": "a", "text": "x" * 50}, {"_id": "b", "text": "y"})
    documents = open_documents([path])
    path.write_text("[" * 40)
    with pytest.raises(InputError, match="has changed since it was opened"):
        documents.read("a")
