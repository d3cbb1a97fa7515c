"""Questions of every format: what is read of them, how they are recognised, and what is said of broken ones."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from formats_of_benchmarks import write_layout
from hypothesis import given, settings
from hypothesis import strategies as st

from polylens.config import schemas
from polylens.errors import InputError
from polylens.generation.formats.entries import Entry
from polylens.generation.formats.items import BadItems
from polylens.generation.formats.registry import QUESTION_FORMATS, question_format
from polylens.generation.formats.textvqa_answers import question_of

EXPECTED = {
    # picture, question, right answers
    "llava": [
        ("1.png", "Which colour?\nAnswer briefly.", []),
        ("1.png", "How many bars?", []),
        (None, "Say hello.", []),
    ],
    "textVQA": [("1a.jpg", "Which brand?", ["acme"] * 9 + ["a"])],
    "docVQA": [("documents/1.png", "Who?", [])],
    "ocrVQA": [("b/1.jpg", "Who?", "me"), ("b/1.jpg", "What?", "that")],
    "STVQA": [("d/1.png", "Who?", [])],
    "ESTVQA": [("1.jpg", "Who?", "me")],
    "SROIE": [
        ("image/X1.jpg", "what is the name of the company that issued this receipt?", "ACME"),
        ("image/X1.jpg", "what is the total amount of this receipt?", "9.00"),
    ],
    "FUNSD": [("images/f.png", 'what is "Name:" information in the image?', "Ann Miller")],
    "POIE": [
        ("image/1.jpg", "what is Serving size in the image?", ["30 g", "2 bars"]),
        ("image/1.jpg", "what is Total fat of per serving in the image?", ["1g"]),
    ],
    "HME": [
        (f"{n}.jpg", "Please write out the expression of the formula in the image using LaTeX format.", formula)
        for n, formula in ((1, "a + b\n"), (2, "c"))
    ],
    "IAM": [("b02/b02-001/b02-001-00.png", "what is written in the image?", "Hello")],
    "ReCTS": [("1.jpg", "What are the Chinese characters in the image?", "中文")],
    "ocr": [("image/1.png", "what is written in the image?", "BAR")],
    "ocrbench": [
        ("svt/1.png", "what is written in the image?", "BAR"),
        ("hme/1.png", "Write it in LaTeX.", ["a + b", "a+b"]),
        ("svt/1.png", "Which colour?", ["red", "crimson"]),
    ],
}


@pytest.mark.parametrize("name", QUESTION_FORMATS)
def test_items(tmp_path, name):
    path, said = write_layout(tmp_path, name)
    format = question_format(said, [path])
    assert format is QUESTION_FORMATS[name]
    items = list(format.read(path, None))
    assert [(one.image, one.question, one.answers) for one in items] == EXPECTED[name]
    assert len({one.where for one in items}) == len(items)
    folder = format.picture_folder(path)
    assert all((folder / one.image).is_file() for one in items if one.image)


def test_items_of_the_original(golden):
    """What the original loaders give for the same files."""
    folder = golden / "llava_remgcl" / "samples" / "mmocr"
    expected = json.loads((folder / "expected_items.json").read_text(encoding="utf-8"))
    paths = {
        "textVQA": "textVQA/TextVQA_0.5.1_val.json",
        "docVQA": "docVQA/val_v1.0.json",
        "ocrVQA": "ocrVQA/dataset.json",
        "STVQA": "STVQA/train_task_3.json",
        "ESTVQA": "ESTVQA/en_train.json",
        "SROIE": "SROIE",
        "FUNSD": "FUNSD",
        "POIE": "POIE/test.txt",
        "ocr_ct80": "ocr/ct80/test_label.txt",
        "ReCTS": "ReCTS/test_label.txt",
        "HME": "HME100K/test_labels.txt",
        "IAM": "IAM",
    }
    roots = {"SROIE": "SROIE", "FUNSD": "FUNSD", "POIE": "POIE", "ocr_ct80": "ocr/ct80", "IAM": "IAM"}
    assert expected.keys() == paths.keys()
    for name, items in expected.items():
        path = folder / paths[name]
        format = question_format({"ocr_ct80": "ocr", "ReCTS": "ReCTS"}.get(name), [path])
        root = "ReCTS/crops" if name == "ReCTS" else roots.get(name, "img")
        found = [
            {"image_path": os.path.join(root, one.image or ""), "question": one.question, "gt_answers": one.answers}
            for one in format.read(path, None)
        ]
        asked = [{key: one[key] for key in item} for one, item in zip(found, items, strict=True)]
        assert asked == items, name


def test_questions_and_answers_of_the_original_keep_the_schemas(golden):
    folder = golden / "llava_remgcl" / "samples"
    for name, schema in (("textvqa_question", "questions_llava"), ("model_vqa_answers", "answers_llava")):
        for line in (folder / f"{name}.example.jsonl").read_text(encoding="utf-8").splitlines():
            assert schemas.errors(schema, json.loads(line)) == []


def read(tmp_path, name, file, text):
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    given = tmp_path if name in ("SROIE", "FUNSD", "IAM") else path
    return list(QUESTION_FORMATS[name].read(given, None))


BROKEN = [
    ("llava", "q.jsonl", '{"question_id": 1, "text": ""}', "q.jsonl:1: /text: '' should be non-empty"),
    ("llava", "q.jsonl", '{"question_id": 1}', "q.jsonl:1: /: 'text' is a required property"),
    ("llava", "q.jsonl", '{"question_id": 1, "text"}', "q.jsonl:1: not JSON: "),
    ("llava", "q.jsonl", "\udcff", "q.jsonl:1: not valid UTF-8"),
    ("textVQA", "t.json", '{"dat": []}', "t.json: /data: there is no array of questions"),
    ("textVQA", "t.json", '{\n"data": [', "t.json:2: not JSON: "),
    ("textVQA", "t.json", '{"data": [{}]}', "t.json: /data/0: /: 'question' is a required property"),
    ("docVQA", "d.json", "[]", "d.json: holds list, not an object"),
    ("STVQA", "s.json", '{"data": [3]}', "s.json: /data/0: /: 3 is not of type 'object'"),
    ("ocrVQA", "o.json", '{"a/b": {"questions": ["x"], "answers": []}}', "/a~1b: /answers: 0 answers to 1 questions"),
    ("ocrVQA", "o.json", '{"a": 1}', "o.json: /a: /: 1 is not of type 'object'"),
    ("ESTVQA", "e.json", '[{"image": "1", "annotation": [{}]}]', "e.json:1: /annotation/0: 'question' is a req"),
    ("POIE", "p.txt", '{"file_name": "1", "entity_dict": {"SSS": "1"}}', "p.txt:1: /entity_dict/SSS: no such entity"),
    ("SROIE", "ann/a.txt", '{"total": 9}', "ann/a.txt: /total: 9 is not of type 'string'"),
    ("SROIE", "other/a.txt", "{}", "has no ann/*.txt"),
    ("FUNSD", "annotations/a.json", '{"form": [{"id": 1}]}', "a.json: /form/0: 'text' is a required property"),
    ("FUNSD", "annotations/a.json", "[", "a.json:1: not JSON"),
    ("IAM", "xml/a.xml", "<form>", "xml/a.xml: not XML: "),
    ("IAM", "xml/a.xml", '<?xml version="1.0" encoding="none"?><form/>', "xml/a.xml: not XML: "),
    ("IAM", "xml/a.xml", '<form><word id="x"/></form>', "xml/a.xml: word 0: a word needs an id and a text"),
    ("HME", "h.txt", "1.jpg x\n", "h.txt:1: a line is a picture, a tab and a formula, not '1.jpg x'"),
    ("ocr", "l.txt", "1.jpg BAR\n2.jpg\n", "l.txt:2: a line is a picture, a blank and the text in it, not '2.jpg'"),
    ("ReCTS", "gone/../r.txt", "1.jpg \udcff", "r.txt: not valid UTF-8"),
    ("ocrbench", "b.json", '[{"id": 1}]', "b.json:1: /: 'dataset_name' is a required property"),
]


@pytest.mark.parametrize(("name", "file", "text", "message"), BROKEN)
def test_broken_files_are_named(tmp_path, name, file, text, message):
    with pytest.raises(InputError) as caught:
        read(tmp_path, name, file, text)
    assert message in str(caught.value)


@pytest.mark.parametrize("name", QUESTION_FORMATS)
def test_a_file_that_is_not_there(tmp_path, name):
    with pytest.raises(InputError, match=r"cannot be read|has no"):
        list(QUESTION_FORMATS[name].read(tmp_path / "gone", None))


def test_an_entity_bomb_is_refused(tmp_path):
    levels = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 12))
    text = f'<!DOCTYPE form [<!ENTITY e0 "ha">{levels}]><form><word id="w" text="&e11;"/></form>'
    with pytest.raises(InputError, match=r"not XML: .*amplification"):
        read(tmp_path, "IAM", "xml/a.xml", text)


def test_bad_entries_are_left_out(tmp_path):
    path = tmp_path / "t.json"
    path.write_text(json.dumps({"data": [{}, {"question": "Who?", "image_id": 1, "question_id": 2}, "x"]}))
    bad = BadItems()
    assert [one.id for one in QUESTION_FORMATS["textVQA"].read(path, bad)] == ["2"]
    assert list(bad.errors) == [f"{path}: /data/0", f"{path}: /data/2"]
    bad.write([path], tmp_path / "aside.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "aside.jsonl").read_text().splitlines()]
    assert [line["record"] for line in lines] == ["{}", '"x"']
    assert not [error for line in lines for error in schemas.errors("quarantine", line)]


UNCLEAR = [
    ("a.json", '{"data": [{"x": 1}]}', "a.json: its beginning has the fields of no format that is known"),
    ("a.txt", "1.jpg STOP\n", "a.txt looks like ReCTS and like ocr: say --format ReCTS, or another"),
    ("a.txt", "1.pdf STOP\n", "the fields of no format"),
    ("a.jsonl", "", "the fields of no format"),
    ("a.jsonl", '{"question_id": 1, "text": "x", "prompt": "y"}', "the fields of no format"),
]


@pytest.mark.parametrize(("file", "text", "message"), UNCLEAR)
def test_nothing_is_guessed(tmp_path, file, text, message):
    (tmp_path / file).write_text(text)
    with pytest.raises(InputError) as caught:
        question_format(None, [tmp_path / file])
    assert message in str(caught.value)


def test_a_format_that_does_not_exist():
    with pytest.raises(
        InputError, match=r"no format 'textVGA' \(did you mean 'textVQA'\?\); there are: conversations"
    ):
        question_format("textVGA", [Path("x")])
    assert question_format("TextVQA", [Path("x")]) is QUESTION_FORMATS["textVQA"]


def test_conversations_are_recognised(tmp_path):
    (tmp_path / "c.jsonl").write_text('broken\n{"conversations": []}\n')
    assert question_format(None, [tmp_path / "c.jsonl"]) is None
    assert question_format(None, [tmp_path]) is None
    assert question_format("conversations", [tmp_path / "gone"]) is None


def test_what_was_answered_before_is_asked_anew():
    value = {
        "dataset_name": "d",
        "id": 1,
        "image_path": "p",
        "question": "?",
        "answers": "x",
        "type": "t",
        "eval": "e",
    }
    entry = Entry("f:1", "", {**value, "predict": "old", "result": 1, "score": 0.5})
    (item,) = QUESTION_FORMATS["ocrbench"].items(entry)
    assert item.fields == value


NAMES = st.text("abc012_-", min_size=1, max_size=6)
WORDS = st.text(st.characters(exclude_categories=["Cs", "Cc", "Z"]), min_size=1, max_size=8)


@given(st.lists(st.tuples(NAMES, WORDS, st.lists(WORDS, max_size=2)), min_size=1), st.sampled_from([" ", "\t", "  "]))
def test_labels_are_pictures_and_first_words(tmp_path_factory, lines, blank):
    path = tmp_path_factory.mktemp("labels") / "test_label.txt"
    path.write_text("".join(f"{name}.png{blank}{blank.join([word, *more])}\n" for name, word, more in lines))
    found = [(one.image, one.answers) for one in QUESTION_FORMATS["ocr"].read(path, None)]
    assert found == [(f"{name}.png", word) for name, word, _ in lines]


@given(st.lists(st.tuples(NAMES, WORDS), min_size=1), st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_formulas_keep_their_line_break(tmp_path_factory, lines, end, last):
    path = tmp_path_factory.mktemp("labels") / "test_labels.txt"
    text = end.join(f"{name}.jpg\t{formula}" for name, formula in lines) + (end if last else "")
    path.write_bytes(text.encode())
    found = [(one.image, one.answers) for one in QUESTION_FORMATS["HME"].read(path, None)]
    expected = [(f"{name}.jpg", f"{formula}\n") for name, formula in lines]
    if not last:
        expected[-1] = (expected[-1][0], expected[-1][1][:-1])
    assert found == expected


@given(st.lists(st.text("ab 1", max_size=4), max_size=3), st.text("xy 2", max_size=4))
def test_brackets_of_poie(inside, outside):
    value = outside + "".join(f"({part})" for part in inside)
    entry = Entry("f:1", "", {"file_name": "1.jpg", "entity_dict": {"SS": value}})
    (item,) = QUESTION_FORMATS["POIE"].items(entry)
    assert item.answers == [*(part.strip() for part in inside), outside.strip()]


@settings(max_examples=40)
@given(st.dictionaries(st.text(max_size=4), st.lists(st.tuples(WORDS, st.text(max_size=5)), max_size=3), min_size=1))
def test_books_of_ocrvqa(tmp_path_factory, books):
    """Any name, also one with slashes and tildes, of which JSON pointers are made."""
    path = tmp_path_factory.mktemp("books") / "dataset.json"
    value = {
        name: {"questions": [one for one, _ in asked], "answers": [other for _, other in asked]}
        for name, asked in books.items()
    }
    path.write_text(json.dumps(value))
    found = list(QUESTION_FORMATS["ocrVQA"].read(path, None))
    assert [(one.image, one.question, one.answers) for one in found] == [
        (f"{name}.jpg", question, answer) for name, asked in books.items() for question, answer in asked
    ]
    assert len({one.where for one in found}) == len(found)


@given(
    st.text(st.characters(exclude_characters="\n"), min_size=1), WORDS, st.sampled_from(["", "Reference OCR token: "])
)
def test_the_question_is_found_in_every_form_of_prompt(question, told, tokens):
    after = "\n".join([question, *([f"{tokens}{told}"] if tokens else []), "Answer briefly."])
    before = "\n".join([*([f"{tokens}{told}"] if tokens else []), question, "Answer briefly."])
    for prompt in (after, before):
        assert question_of(prompt, "f:1") == question.lower()
