import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from polylens.config import schemas
from polylens.contracts import ImageRef, Message
from polylens.data.conversations import _certainly_valid, read_conversations
from polylens.data.placeholders import PLACEHOLDER
from polylens.data.show import find_records
from polylens.data.statistics import statistics
from polylens.data.store import DocumentStore
from polylens.data.validate import validate
from polylens.errors import InputError


@pytest.fixture
def write(tmp_path):
    def lines(*values, name="talk.jsonl"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(v if isinstance(v, str) else json.dumps(v, ensure_ascii=False) + "\n" for v in values))
        return path

    return lines


def turns(*texts, form=("role", "content"), names=("user", "assistant")):
    return [{form[0]: names[i % 2], form[1]: text} for i, text in enumerate(texts)]


def parts(record):
    return [message.parts for message in record.messages]


A, B = ImageRef("path", "a.png"), ImageRef("path", "b.png")


def test_every_way_to_place_pictures(write):
    path = write(
        {"id": 7, "image": "a.png", "conversations": turns("what?", "this")},
        {"image": ["a.png"], "conversations": turns("so: <image>\nwhat?", "this")},
        {"image": ["a.png", "b.png"], "conversations": turns("<image><image> which?", "the second")},
        {"image": ["a.png", "b.png"], "conversations": turns("<image_01> or", "or?", "<image_00>?", "b")},
        {
            "id": "llava",
            "image": {"<image_00>": "b.png", "<image_3>": "a.png"},
            "conversations": [
                {"from": "system", "value": "be brief"},
                *turns("<image_3>, <image_00>", "two", form=("from", "value"), names=("human", "gpt")),
            ],
        },
        {"conversations": turns("only text", "yes"), "image": None, "metadata": {"n": 1}},
    )
    found = read_conversations([path])
    first, second, third, fourth, fifth, sixth = found.records
    assert (found.quarantined, found.image_root) == (0, path.parent)
    assert (first.id, first.where, second.id) == ("7", f"{path}:1", "talk.jsonl:2")
    assert parts(first) == [(A, "\nwhat?"), ("this",)]
    assert parts(second) == [("so: ", A, "\nwhat?"), ("this",)]
    assert parts(third) == [(A, B, " which?"), ("the second",)]
    assert parts(fourth) == [(B, " or"), ("or?",), (A, "?"), ("b",)]
    assert fifth.messages[:2] == (Message("system", ("be brief",)), Message("user", (A, ", ", B)))
    assert parts(sixth) == [("only text",), ("yes",)]


def test_an_array_has_lines_too(tmp_path):
    records = [{"conversations": turns("x", "ü")}, {"conversations": turns("x")}, {"conversations": turns("x", "]}")}]
    path = tmp_path / "talk.json"
    path.write_text("\ufeff[\n" + ",\n".join(json.dumps(r, indent=1, ensure_ascii=False) for r in records) + "\n]\n")
    lines = path.read_text().splitlines()
    second = [i for i, line in enumerate(lines, 1) if line.startswith("{")][1]
    with pytest.raises(InputError, match=rf"talk.json:{second}: record '.*': /conversations/0: the last"):
        read_conversations([path])
    aside = tmp_path / "bad.jsonl"
    found = read_conversations([path], on_bad_record="quarantine", quarantine=aside)
    assert ([parts(r)[1] for r in found.records], found.quarantined) == ([("ü",), ("]}",)], 1)
    assert json.loads(json.loads(aside.read_text())["record"]) == records[1]


def test_records_on_one_line_have_places_of_their_own(tmp_path):
    """As ``json.dump`` writes an array; what is set aside is told by its place."""
    path, aside = tmp_path / "talk.json", tmp_path / "bad.jsonl"
    items = [json.dumps({"conversations": turns(text, *answer)}) for text, *answer in ("ab", "c", "de", "f")]
    path.write_text(f"[{items[0]}, {items[1]},\n {items[2]}, {items[3]}]")
    found = read_conversations([path], on_bad_record="quarantine", quarantine=aside)
    assert [record.where for record in found.records] == [f"{path}:1", f"{path}:2"]
    bad = [json.loads(line) for line in aside.read_text().splitlines()]
    columns = [len(items[0]) + 4, len(items[2]) + 4]
    assert [line["where"] for line in bad] == [f"{path}:{n}:{column}" for n, column in enumerate(columns, 1)]
    assert [line["record"] for line in bad] == [items[1], items[3]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "no conversations are left in"),
        ("[{}, {]", "talk.json:1:6: not JSON: .* in the record that begins here"),
        ("[{}\n\n{}]", "talk.json:1: not JSON: no comma after the record"),
        ("[1] 2", "not JSON: there is more after the array"),
        ("[1,]", "talk.json:1:4: not JSON"),
        ("", "no conversations are left in"),
        ('[{"a": NaN}]', "talk.json:1: not JSON that polylens reads: NaN is not"),
    ],
)
def test_arrays_that_cannot_be_read(tmp_path, text, message):
    path = tmp_path / "talk.json"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_conversations([path], on_bad_record="error" if "NaN" in text else "quarantine", quarantine=tmp_path / "q")


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (
            {"conversations": turns("<image> x", "y")},
            "/0/content: <image> has no picture: the record has no",
        ),
        (
            {"image": "a", "conversations": turns("<image> <image>", "y")},
            "no picture: the record has 1 picture",
        ),
        ({"image": ["a", "b"], "conversations": turns("x", "y")}, "/image/0: this picture has no placeholder"),
        ({"image": ["a", "b"], "conversations": turns("<image>", "y")}, "/image/1: this picture has no placeholder"),
        (
            {"image": ["a", "b"], "conversations": turns("<image_00><image>", "y")},
            "has <image> and <image_NN>; use",
        ),
        ({"image": "a", "conversations": turns("<image_00><image_0>", "y")}, "<image_0> stands here again"),
        ({"image": {"<image_00>": "a"}, "conversations": turns("<image_01>", "y")}, "<image_01> has no picture"),
        ({"image": {"picture": "a"}, "conversations": turns("x", "y")}, "/image: "),
        (
            {"image": "a", "conversations": turns("x", "an <image>")},
            "<image> stands in an assistant",
        ),
        ({"conversations": turns("x", "y")[::-1]}, "/conversations/0: the conversation starts with the assistant"),
        ({"conversations": turns("x", " \n")}, "/conversations/1/content: an empty answer"),
        ({"conversations": turns(" ", "y")}, "/conversations/0/content: an empty question"),
        ({"conversations": [*turns("x"), *turns("x", "y")]}, "/conversations/1: this turn is of the user"),
        ({"conversations": [{"role": "system", "content": "x"}]}, "nothing comes after the system turn"),
        ({"conversations": turns("x", "y", "z")}, "/conversations/2: the last turn has no answer"),
        ({"conversations": []}, "/conversations: "),
        ({"conversations": turns("x", "y"), "images": "a"}, "/images: unknown key (did you mean 'image'?)"),
        ({"conversations": [{"role": "tool", "content": "x"}]}, "/conversations/0/role: 'tool' is not one of"),
        ({"conversations": [{"role": "user", "value": "x"}]}, "/conversations/0: "),
        ({"image": {"document": "a"}, "conversations": turns("x", "y")}, "/image: no document store was given"),
    ],
)
def test_bad_records_are_named(write, record, message, tmp_path):
    path = write({"id": "good", "conversations": turns("x", "y")}, {"id": "bad", **record})
    with pytest.raises(InputError) as caught:
        read_conversations([path])
    assert str(caught.value).startswith(f"{path}:2: record 'bad': /")
    assert message in str(caught.value)
    found = read_conversations([path], on_bad_record="quarantine", quarantine=tmp_path / "aside.jsonl")
    assert ([r.id for r in found.records], found.quarantined) == (["good"], 1)


def test_a_question_may_stand_alone_where_no_answer_is_needed(write):
    (record,) = read_conversations([write({"conversations": turns("x", "y", "z")})], answered=False).records
    assert parts(record) == [("x",), ("y",), ("z",)]


def test_pictures_of_documents_and_of_several_folders(write, store, tmp_path):
    one = write({"image": {"document": "a.pdf#1"}, "conversations": turns("x", "y")}, name="one/talk.jsonl")
    two = write({"image": "p/b.png", "conversations": turns("x", "y")}, name="two/talk.jsonl")
    found = read_conversations([one, two], documents=DocumentStore([store]))
    assert found.image_root == tmp_path
    assert [r.images[0] for r in found.records] == [ImageRef("document", "a.pdf#1"), ImageRef("path", "two/p/b.png")]
    found = read_conversations([two], image_root=tmp_path / "pictures")
    assert (found.image_root, found.records[0].images[0].value) == (tmp_path / "pictures", "p/b.png")
    missing = write({"image": {"document": "a.pdf#9"}, "conversations": turns("x", "y")})
    with pytest.raises(InputError, match=r"there is no document 'a.pdf#9'"):
        read_conversations([missing], documents=DocumentStore([store]))


def test_validate_stats_and_show(write, picture, tmp_path):
    (tmp_path / "a.png").write_bytes(picture())
    (tmp_path / "cut.png").write_bytes(picture(size=(64, 64))[:70])
    path = write(
        {"id": "good", "image": "a.png", "conversations": turns("what?", "red", "sure?", "yes")},
        {"id": "cut", "image": "cut.png", "conversations": turns("what?", "red")},
        {"id": "empty", "image": "none.png", "conversations": turns("what?", "")},
        {"id": "text", "conversations": turns("hello", "hi")},
    )
    findings = validate(path)
    assert (findings.kind, findings.records, findings.bad) == ("conversations", 4, 1)
    cut, empty = findings.problems
    assert cut.startswith(f"{path}:2: record 'cut': picture 'cut.png'")
    assert empty == f"{path}:3: record 'empty': /conversations/1/content: an empty answer"
    good = write(
        {"id": "g", "image": "a.png", "conversations": turns("what?", "red")}, {"conversations": turns("a", "b")}
    )
    figures = statistics(good)
    assert (figures["kind"], figures["conversations"], figures["without a picture"]) == ("conversations", 2, 1)
    assert figures["answer characters"]["max"] == 3
    assert find_records(good, id="g")[0]["turns"] == [{"user": [{"path": "a.png"}, "\nwhat?"]}, {"assistant": ["red"]}]


said = st.text(st.sampled_from("ab <\n"), max_size=4)
slots = st.sampled_from(["<image>", "<image_00>", "<image_01>"])
text = st.lists(said | slots, max_size=3).map("".join)
turn = st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "system"]), "content": text})
pictures = st.none() | st.just("a.png") | st.lists(st.sampled_from(["a.png", "b.png"]), max_size=2)
records = st.fixed_dictionaries(
    {"conversations": st.lists(turn, max_size=4)},
    optional={"image": pictures, "id": st.just("x"), "extra": st.just(1)},
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(record=records)
def test_nothing_that_is_said_or_shown_is_lost(record, tmp_path):
    """A record is refused, or all its text and every picture comes out, in order."""
    path = tmp_path / "talk.jsonl"
    path.write_text(json.dumps(record) + "\n")
    assert not _certainly_valid(record) or schemas.errors("conversations", record) == []
    try:
        (found,) = read_conversations([path], answered=False).records
    except InputError:
        return
    given = record.get("image")
    images = [] if given is None else given if isinstance(given, list) else [given]
    assert sorted(ref.value for ref in found.images) == sorted(images)
    spoken = ["".join(p for p in message.parts if isinstance(p, str)) for message in found.messages]
    texts = [PLACEHOLDER.sub("", turn["content"]) for turn in record["conversations"]]
    moved = bool(images) and not any(PLACEHOLDER.search(turn["content"]) for turn in record["conversations"])
    first = next(i for i, turn in enumerate(record["conversations"]) if turn["role"] == "user")
    assert spoken == [("\n" + t if moved and i == first else t) for i, t in enumerate(texts)]
