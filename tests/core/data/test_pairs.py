import base64
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from polylens.config import schemas
from polylens.contracts import ImageRef
from polylens.data.pairs import _certainly_valid, document_record, read_pairs, read_queries
from polylens.data.store import Document, DocumentStore
from polylens.errors import InputError

ORIGINAL = "Represent this query for retrieving relavant documents: "


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.fixture
def documents(store):
    return DocumentStore([store])


@pytest.fixture
def write(tmp_path):
    def lines(*values, name="pairs.jsonl"):
        path = tmp_path / name
        path.write_text("".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values))
        return path

    return lines


def parts(record):
    (message,) = record.messages
    assert message.role == "user"
    return message.parts


def test_a_pair_and_its_defaults(write, documents):
    path = write(
        {"query": "什么?", "positives": ["a.pdf#1"]},
        {
            "id": "q2",
            "query": {"text": "what?", "instruction": "Find: "},
            "positives": ["a.pdf#2", "b.pdf#1"],
            "negatives": ["c.pdf#1"],
            "source": "manuals",
            "batch": 3,
        },
        {"query": {"text": "what?", "instruction": ""}, "positives": ["note"]},
        {"query": {"image": "photo.png", "text": "this?"}, "positives": ["note"]},
    )
    first, second, third, fourth = read_pairs([path], documents=documents, query_instruction="Q: ").pairs
    assert (first.id, first.source, first.negatives, first.batch) == ("pairs.jsonl:1", "pairs", (), -1)
    assert (first.where, first.query.where, first.query.id) == (f"{path}:1", f"{path}:1", "pairs.jsonl:1")
    assert parts(first.query) == ("Q: 什么?",)
    assert parts(second.query) == ("Find: what?",)
    assert (second.positives, second.negatives) == (("a.pdf#2", "b.pdf#1"), ("c.pdf#1",))
    assert (second.id, second.source, second.batch) == ("q2", "manuals", 3)
    assert parts(third.query) == ("what?",)
    assert parts(fourth.query) == (ImageRef("path", "photo.png"), "\nQ: this?")


@pytest.mark.parametrize(
    ("line", "reasons"),
    [
        ({"query": "x"}, ["'positives' is a required property"]),
        ({"query": "x", "positives": []}, ["/positives: "]),
        ({"query": "x", "positives": ["note", "note"]}, ["/positives: "]),
        ({"query": "", "positives": ["note"]}, ["/query: has neither text nor image"]),
        ({"query": {"instruction": "x"}, "positives": ["note"]}, ["/query: has neither text nor image"]),
        ({"query": 5, "positives": "note"}, ["/query: ", "/positives: "]),
        ({"query": {"texts": "x"}, "positives": ["note"]}, ["texts"]),
        ({"query": "x", "positives": ["note"], "negative": []}, ["negative"]),
        (
            {"query": "x", "positives": ["note"], "negatives": ["note"]},
            ["/negatives: 'note' is also among the positives"],
        ),
        (
            {"query": "x", "positives": ["note", "a.pdf#9"], "negatives": ["none"]},
            [
                "/positives/1: there is no document 'a.pdf#9'",
                "did you mean 'a.pdf#",
                "/negatives/0: there is no document 'none'",
            ],
        ),
        ([1], ["[1] is not of type 'object'"]),
    ],
)
def test_everything_wrong_in_a_record_is_said_at_once(write, documents, line, reasons):
    path = write({"query": "x", "positives": ["note"]}, line)
    with pytest.raises(InputError) as caught:
        read_pairs([path], documents=documents)
    assert str(caught.value).startswith(f"{path}:2: ")
    for reason in reasons:
        assert reason in str(caught.value)


def test_ids_are_unique_over_all_files(write, documents):
    one = write({"id": "x", "query": "a", "positives": ["note"]}, name="one.jsonl")
    two = write({"id": "x", "query": "b", "positives": ["note"]}, name="two.jsonl")
    with pytest.raises(InputError, match=r"two\.jsonl:1: /id: 'x' is also the id of .*one\.jsonl:1"):
        read_pairs([one, two], documents=documents)


def test_bad_records_are_set_aside_and_counted(write, documents, tmp_path):
    path = write({"query": "x", "positives": ["note"]}, {"query": "x", "positives": ["gone"]}, "text")
    pairs = read_pairs([path], documents=documents, on_bad_record="quarantine", quarantine=tmp_path / "q.jsonl")
    assert (len(pairs.pairs), pairs.quarantined) == (1, 2)
    entries = [json.loads(line) for line in (tmp_path / "q.jsonl").read_text().splitlines()]
    assert [entry["where"] for entry in entries] == [f"{path}:2", f"{path}:3"]
    assert "'gone'" in entries[0]["reason"]
    path.write_text('"text"\n')
    with pytest.raises(InputError, match=r"no pairs are left .*1 bad records were set aside"):
        read_pairs([path], documents=documents, on_bad_record="quarantine", quarantine=tmp_path / "q.jsonl")


def test_pairs_need_documents(write):
    with pytest.raises(InputError, match="no document store was given"):
        read_pairs([write({"query": "x", "positives": ["a"]})], documents=None)


def test_training_lines_of_the_original(write, picture):
    page, other = b64(picture("red")), b64(picture("blue"))
    query = {"text": "what?", "image": None, "instruction": ORIGINAL}
    path = write(
        {"index": 0, "query": query, "pos": [{"text": "", "image": page, "instruction": ""}], "neg": []},
        {"query": "old form", "pos": {"text": "", "image": page}},
        {
            "query": {"text": "", "image": other, "instruction": "I"},
            "pos": [{"text": "a text"}],
            "neg": [{"text": "", "image": page}, {"text": "a text"}, {"text": "", "image": other}],
        },
        name="data.jsonl",
    )
    found = read_pairs([path], documents=None, query_instruction="Q: ")
    first, second, third = found.pairs
    assert parts(first.query) == (ORIGINAL + "what?",)
    assert parts(second.query) == ("Q: old form",)
    assert first.positives == second.positives
    assert found.documents.read(first.positives[0]) == Document(first.positives[0], picture("red"))
    assert found.documents.read(third.positives[0]).text == "a text"
    # The text that is also the answer is no negative; the picture that is the query is a document like any other.
    assert len(third.negatives) == 2
    ref, text = parts(third.query)
    assert (ref, text) == (ImageRef("document", third.negatives[1]), "\nI")
    assert found.documents.read(ref.value).image == picture("blue")
    assert len(found.documents) == 3


def test_inline_documents_and_a_store_read_as_one(write, documents, picture):
    path = write({"query": "x", "positives": ["note"]}, {"query": "y", "pos": [{"text": "inline"}]})
    found = read_pairs([path], documents=documents)
    assert [found.documents.read(pair.positives[0]).text for pair in found.pairs] == ["only text", "inline"]


def test_folders_of_training_files(write, tmp_path, documents):
    (tmp_path / "data").mkdir()
    for name in ("b", "a"):
        (tmp_path / "data" / f"{name}.jsonl").write_text(json.dumps({"query": name, "positives": ["note"]}) + "\n")
    (tmp_path / "data" / "metadata.json").write_text('{"length": 2}')
    assert [pair.source for pair in read_pairs([tmp_path / "data"], documents=documents).pairs] == ["a", "b"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="has no \\*\\.jsonl file"):
        read_pairs([tmp_path / "empty"], documents=documents)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ({"query": "x", "pos": []}, "/pos: "),
        ({"query": "x", "pos": [{"text": ""}]}, "/pos/0: has neither text nor image"),
        ({"query": "x", "pos": {}}, "/pos: has neither text nor image"),
        ({"query": "x", "pos": {"text": "x"}, "neg": {}}, "/neg: has neither text nor image"),
        ({"query": "x", "pos": {"image": "%"}}, "/pos: the picture is not valid base64"),
        ({"query": {"text": ""}, "pos": [{"text": "x"}]}, "/query: has neither text nor image"),
        ({"query": "x", "pos": [{"text": "x"}], "neg": [{"image": 5}]}, "/neg"),
    ],
)
def test_bad_training_lines_of_the_original(write, line, reason):
    with pytest.raises(InputError) as caught:
        read_pairs([write(line)], documents=None)
    assert f"pairs.jsonl:1: {reason}" in str(caught.value)


def test_document_records(picture):
    page = document_record(Document("p#1", picture()))
    assert (page.id, parts(page)) == ("p#1", (ImageRef("document", "p#1"), "\n"))
    assert parts(document_record(Document("p#1", picture(), "words"))) == (ImageRef("document", "p#1"), "\nwords")
    assert parts(document_record(Document("t", None, "words"))) == ("words",)


def test_queries_of_every_layout(write, picture):
    path = write(
        {"_id": "b1", "text": "beir", "metadata": {}},
        {"id": "o-1", "text": "original", "image": None, "answer": None},
        {"id": "o-2", "text": "with picture", "image": b64(picture())},
        {"id": "p", "query": {"text": "pair", "instruction": "I "}, "positives": ["anything"]},
        {"_id": 7, "text": "number"},
    )
    records = read_queries(path, "Q: ")
    assert [record.id for record in records] == ["b1", "o-1", "o-2", "p", "7"]
    assert [parts(record)[-1] for record in records] == [
        "Q: beir",
        "Q: original",
        "\nQ: with picture",
        "I pair",
        "Q: number",
    ]
    assert parts(records[2])[0] == ImageRef("bytes", picture())


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ({"text": "x"}, ":2: the line has no id"),
        ({"_id": "a", "text": "again"}, ":2: query 'a' is also at "),
        ({"_id": "b", "text": ""}, ":2: /query: has neither text nor image"),
        ({"_id": "b", "text": []}, ":2: /text: "),
        ({"_id": "b", "image": "%"}, ":2: /image: the picture is not valid base64"),
    ],
)
def test_bad_queries(write, line, reason):
    path = write({"_id": "a", "text": "x"}, line)
    with pytest.raises(InputError) as caught:
        read_queries(path)
    assert f"{path}{reason}" in str(caught.value)


words = st.sampled_from(["", "a", "b"])
values: st.SearchStrategy[Any] = (
    words
    | st.integers()
    | st.none()
    | st.lists(words, max_size=3)
    | st.dictionaries(
        st.sampled_from(["text", "image", "instruction", "other"]), words | st.none() | st.integers(), max_size=3
    )
)
keys = st.sampled_from(["id", "query", "positives", "negatives", "source", "batch", "metadata", "other"])


@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(
    st.dictionaries(keys, values, max_size=5)
    | st.fixed_dictionaries(
        {"query": values, "positives": st.lists(words, max_size=3)},
        optional={
            "negatives": st.lists(words, max_size=3),
            "id": words,
            "source": words,
            "batch": st.integers(-1, 1) | st.booleans() | words,
            "metadata": values,
        },
    )
)
def test_the_quick_check_accepts_nothing_that_the_schema_refuses(value):
    if _certainly_valid(value):
        assert schemas.errors("pairs", value) == []


def test_the_quick_check_accepts_usual_lines():
    assert _certainly_valid({"query": {"text": "x"}, "positives": ["a"]})
    assert _certainly_valid({"id": "1", "query": "x", "positives": ["a"], "negatives": ["b"], "source": "s"})
