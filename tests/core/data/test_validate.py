import base64
import json

import h5py
import pytest
from PIL import Image

from polylens.data.convert import convert
from polylens.data.pairs import read_pairs
from polylens.data.show import find_records, save_picture
from polylens.data.statistics import statistics
from polylens.data.store import Document, DocumentStore, open_documents
from polylens.data.validate import detect_kind, validate
from polylens.errors import InputError


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.fixture
def write(tmp_path):
    def lines(*values, name="pairs.jsonl"):
        path = tmp_path / name
        path.write_text("".join(value if isinstance(value, str) else json.dumps(value) + "\n" for value in values))
        return path

    return lines


def test_all_errors_of_a_pairs_file(write, store, tmp_path, picture):
    (tmp_path / "ok.png").write_bytes(picture())
    (tmp_path / "cut.png").write_bytes(picture(size=(64, 64))[:70])
    path = write(
        {"id": "good", "query": {"text": "x", "image": "ok.png"}, "positives": ["note"]},
        "{broken\n",
        {"id": "q3", "query": {"txt": "x"}, "positives": []},
        {"id": "good", "query": "x", "positives": ["a.pdf#1"]},
        {"query": "x", "positives": ["a.pdf#7"]},
        {"query": {"image": "cut.png"}, "positives": ["note"]},
        {"query": {"image": "../x.png"}, "positives": ["note"]},
        {"query": "x", "pos": [{"image": b64(picture(size=(64, 64))[:70])}]},
    )
    findings = validate(path, documents=DocumentStore([store]))
    assert (findings.kind, findings.records, findings.bad) == ("pairs", 8, 4)
    expected = [
        (2, "not JSON"),
        (3, "record 'q3': /positives: "),
        (3, "record 'q3': /query"),
        (4, "record 'good': /id: 'good' is also the id of"),
        (5, "/positives/0: there is no document 'a.pdf#7'"),
        (6, "picture 'cut.png'"),
        (7, "picture '../x.png' lies outside the image root"),
        (8, "/pos/0: picture of document"),
    ]
    assert len(findings.problems) == len(expected)
    for problem, (number, text) in zip(findings.problems, expected, strict=True):
        assert problem.startswith(f"{path}:{number}: {text}"), problem


def test_ids_are_not_checked_without_documents(write):
    assert validate(write({"query": "x", "positives": ["anything"]})).problems == []


def test_all_errors_of_queries_and_documents(write, picture):
    queries = write(
        {"_id": "a", "text": "x"},
        {"_id": "a", "text": "y"},
        {"text": "z"},
        {"_id": "c", "image": b64(b"x")},
        name="queries.jsonl",
    )
    found = validate(queries)
    assert [problem.removeprefix(f"{queries}:")[0] for problem in found.problems] == ["2", "3", "4"]
    page = {"_id": "p", "image": b64(picture())}
    documents = write(
        page, page, {"_id": "p", "text": "other"}, {"_id": "r", "image": b64(b"no")}, name="corpus.jsonl"
    )
    found = validate(documents)
    assert (found.kind, found.records) == ("documents", 4)
    assert [problem.removeprefix(f"{documents}:")[0] for problem in found.problems] == ["3", "4"]


def test_all_errors_of_a_store(store, original_h5):
    assert validate(store).problems == []
    assert validate(original_h5).records == 3
    with h5py.File(store / "documents-00000.h5", "r+") as file:
        file["blob"][10] ^= 255
        file["blob"][int(file["end"][1]) + 10] ^= 255
    (store / "documents-00001.h5").write_bytes(b"gone")
    found = validate(store)
    assert [part in problem for part, problem in zip(("'a.pdf#1'", "'a.pdf#3'", "00001"), found.problems, strict=True)]
    assert found.records == 6


def test_kinds(write, store, original_h5, tmp_path):
    assert detect_kind(store) == "documents"
    assert detect_kind(original_h5) == "documents"
    assert detect_kind(write({"_id": "a", "text": "x"}, name="my-queries.jsonl")) == "queries"
    assert detect_kind(write({"_id": "a", "text": "x"}, name="corpus.jsonl")) == "documents"
    for path in (write(name="empty.jsonl"), write({"x": 1}, name="odd.jsonl"), tmp_path / "none"):
        with pytest.raises(InputError, match=str(path)):
            detect_kind(path)


def test_statistics(write, store):
    figures = statistics(store)
    assert (figures["documents"], figures["with a picture"], figures["files"]) == (10, 9, 4)
    assert figures["most frequent sizes"] == {"8 x 6": 9}
    assert figures["pages a file"]["max"] == 3
    path = write(
        {"query": "four", "positives": ["a.pdf#1"], "source": "s"},
        {"query": "four", "positives": ["a.pdf#2", "b.pdf#1"], "source": "s", "batch": 0},
        {"query": "sixsix", "positives": ["a.pdf#1"], "source": "t"},
    )
    figures = statistics(path)
    assert (figures["pairs"], figures["queries"], figures["documents"], figures["files"]) == (3, 2, 3, 2)
    assert figures["sources"]["t"] == {"pairs": 1, "queries": 1, "documents": 1, "files": 1}
    assert figures["query characters"]["median"] == 4
    assert figures["batches"] == 1
    assert json.loads(json.dumps(figures)) == figures
    assert statistics(write({"_id": "a", "text": "abc"}, name="queries.jsonl"))["queries"] == 1


def test_show(write, store, tmp_path):
    (page,) = find_records(store, limit=1)
    assert (page["id"], page["width"], page["height"]) == ("a.pdf#1", 8, 6)
    (record,) = find_records(store, id="note")
    assert record == {"id": "note", "text": "only text"}
    path = write({"id": "x", "query": {"text": "q", "image": "i.png"}, "positives": ["note"], "batch": 2})
    assert find_records(path) == [
        {
            "id": "x",
            "where": f"{path}:1",
            "query": [{"path": "i.png"}, "\nq"],
            "positives": ("note",),
            "negatives": (),
            "source": "pairs",
            "batch": 2,
        }
    ]
    with pytest.raises(InputError, match="no record 'y'"):
        find_records(path, id="y")
    assert save_picture(DocumentStore([store]), "b.pdf#2", tmp_path / "page.jpg") == (8, 6)
    assert Image.open(tmp_path / "page.jpg").format == "JPEG"
    with pytest.raises(InputError, match=r"no picture format has the ending '\.xyz'"):
        save_picture(DocumentStore([store]), "b.pdf#2", tmp_path / "page.xyz")
    with pytest.raises(InputError, match="'note' has no picture"):
        save_picture(DocumentStore([store]), "note", tmp_path / "page.png")


def test_convert_stores(original_h5, store, tmp_path):
    report = convert([original_h5, store], tmp_path / "out")
    assert (report.new, report.total) == (13, 13)
    before, after = open_documents([original_h5, store]), DocumentStore([tmp_path / "out"])
    assert [after.read(id) for id in before.ids()] == [before.read(id) for id in before.ids()]
    assert convert([original_h5, store], tmp_path / "out").new == 0


def test_convert_training_files_of_the_original(write, tmp_path, picture):
    path = write(
        {"query": {"text": "what?", "instruction": "I: "}, "pos": [{"image": b64(picture())}], "neg": [{"text": "no"}]}
    )
    report = convert([path], tmp_path / "out")
    assert (report.total, report.pairs) == (2, 1)
    before = read_pairs([path], documents=None)
    after = read_pairs([tmp_path / "out/pairs.jsonl"], documents=DocumentStore([tmp_path / "out"]))
    assert after.pairs[0].query.messages == before.pairs[0].query.messages
    assert after.pairs[0].positives == before.pairs[0].positives
    assert after.documents.read(after.pairs[0].positives[0]) == Document(after.pairs[0].positives[0], picture())
    with pytest.raises(InputError, match="by a path, not by base64"):
        convert([write({"query": {"image": b64(picture())}, "pos": {"text": "x"}})], tmp_path / "out2")
