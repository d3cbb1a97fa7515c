"""Files of answers: what originals and polylens write is read, and what is no answer is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polylens.config import schemas
from polylens.contracts import Message, Record
from polylens.errors import InputError
from polylens.generation.formats.answer_files import (
    ANSWER_FORMATS,
    Author,
    read_answer_values,
    read_answers,
    write_answer_values,
)
from polylens.generation.formats.items import Item
from polylens.generation.formats.textvqa_answers import annotated_answers, question_of
from polylens.generation.generator import Answer
from polylens.generation.predict import model_name
from polylens.generation.prompts import Question, benchmark_question

ITEM = Item("5", "a/1.png", "Which brand?", ["acme", "a"], "f:3", {"question_id": 5})
BENCH = {"dataset_name": "svt", "id": 2, "image_path": "a/1.png", "question": "What?", "answers": "BAR", "type": "t"}
SAID, AUTHOR = Answer("acme", 2, True), Author("tuned", Path("pictures"))


def test_answers_as_the_originals_write_them():
    asked = benchmark_question(ITEM, "{question}\nAnswer briefly.")
    assert [part for part in asked.record.messages[0].parts if isinstance(part, str)] == [
        "\nWhich brand?\nAnswer briefly."
    ]
    made = {name: format.make(asked, SAID, AUTHOR) for name, format in ANSWER_FORMATS.items() if name != "ocrbench"}
    answer_id = made["llava"].pop("answer_id")
    assert (len(answer_id), answer_id.isalnum()) == (22, True)
    assert made == {
        "llava": {
            "question_id": 5,
            "prompt": "Which brand?",
            "text": "acme",
            "model_id": "tuned",
            "metadata": {},
        },
        "mmocr": {
            "question": "Which brand?",
            "answer": "acme",
            "gt_answers": ["acme", "a"],
            "image_path": "pictures/a/1.png",
            "model_name": "tuned",
        },
        "polylens": {
            "id": "5",
            "answer": "acme",
            "references": ("acme", "a"),
            "question": "Which brand?\nAnswer briefly.",
            "tokens": 2,
            "finished": True,
        },
    }
    bench = benchmark_question(Item("svt-2", "a/1.png", "What?", "BAR", "f:1", BENCH))
    assert ANSWER_FORMATS["ocrbench"].make(bench, SAID, AUTHOR) == {**BENCH, "predict": "acme"}


def test_answer_ids_tell_answers_apart():
    make = ANSWER_FORMATS["llava"].make
    asked = benchmark_question(ITEM)
    other = benchmark_question(Item("5", "a/1.png", "Which brand?", [], "f:4"))
    ids = [make(asked, SAID, AUTHOR), make(asked, SAID, AUTHOR), make(other, SAID, AUTHOR)]
    ids += [make(asked, Answer("x", 1, True), AUTHOR), make(asked, SAID, Author("y", Path()))]
    assert len({one["answer_id"] for one in ids}) == len(ids) - 1


@pytest.mark.parametrize(
    ("name", "asked", "message"),
    [
        (
            "mmocr",
            Question(Record("r", (Message("user", ("x",)),), "f:1")),
            "f:1: answers of the format mmocr need a q",
        ),
        ("mmocr", benchmark_question(Item("1", None, "x", [], "f:2")), "f:2: answers of the format mmocr need"),
        ("ocrbench", benchmark_question(ITEM), "f:3: answers of the format ocrbench need questions of OCRBench"),
    ],
)
def test_what_an_answer_repeats_must_be_there(name, asked, message):
    with pytest.raises(InputError, match=message):
        ANSWER_FORMATS[name].check([asked])


@pytest.mark.parametrize("name", ANSWER_FORMATS)
def test_files_are_recognised_and_read(tmp_path, name):
    item = Item("svt-2", "a/1.png", "What?", "BAR", "f:1", BENCH)
    format = ANSWER_FORMATS[name]
    values = [format.make(benchmark_question(item), Answer(text, 1, True), AUTHOR) for text in ("one", "zwei ü\n")]
    write_answer_values(tmp_path / "a", format, values)
    found, read = read_answer_values(tmp_path / "a")
    assert found is format
    assert [value for value, _ in read] == json.loads(json.dumps(values))
    assert not [error for value, _ in read for error in schemas.errors(format.schema, value)]
    answers = read_answers(tmp_path / "a")
    assert [one.answer for one in answers] == ["one", "zwei ü\n"]
    assert [one.references for one in answers] == [() if name == "llava" else ("BAR",)] * 2


@settings(max_examples=30)
@given(st.lists(st.dictionaries(st.text(max_size=3), st.text(max_size=5) | st.integers(), min_size=1), max_size=4))
def test_what_is_written_is_json(tmp_path_factory, values):
    for name in ("mmocr", "llava"):
        path = tmp_path_factory.mktemp("json") / "a"
        write_answer_values(path, ANSWER_FORMATS[name], values)
        text = path.read_text(encoding="utf-8")
        lines = json.loads(text) if name == "mmocr" else [json.loads(line) for line in text.split("\n")[:-1]]
        assert lines == values


BROKEN = [
    ("", "answers has no answers"),
    ("[]", "answers has no answers"),
    ("[3]", "answers:1: an answer of no format that is known (ocrbench has answers, dataset_name; mmocr has gt_answ"),
    ('{"question_id": 1}', "answers:1: /: 'text' is a required property"),
    ('[{"answer": "x", "gt_answers": [1]}]', "answers:1: /gt_answers/0: 1 is not of type 'string'"),
    ('{"id": 1, "answer": "x"}\n{"answer": "y"}', "answers:2: /: 'id' is a required property"),
]


@pytest.mark.parametrize(("text", "message"), BROKEN)
def test_broken_files_are_named(tmp_path, text, message):
    (tmp_path / "answers").write_text(text)
    with pytest.raises(InputError) as caught:
        read_answers(tmp_path / "answers")
    assert message in str(caught.value)


def test_a_format_is_taken_at_its_word(tmp_path):
    (tmp_path / "answers").write_text('{"id": 1, "answer": "x"}')
    with pytest.raises(InputError, match="'question_id' is a required property"):
        read_answers(tmp_path / "answers", format="llava")
    with pytest.raises(InputError, match=r"no format of answers 'lava' \(did you mean 'llava'\?\)"):
        read_answers(tmp_path / "answers", format="lava")


@pytest.mark.parametrize(
    ("prompt", "question"),
    [
        ("Which One?\nAnswer it.", "which one?"),
        ("Which One?", "which one?"),
        ("Which One?\nReference OCR token: A, b\nAnswer it.", "which one?"),
        ("Reference OCR token: A, b\nWhich One?\nAnswer it.", "which one?"),
        ("OCR tokens: A b. Question: Which\nOne? Short answer:", "which\none?"),
        ("OCR tokens: A b.", None),
        ("Which One?\nTwo\nThree", None),
    ],
)
def test_questions_in_prompts_of_llava(prompt, question):
    if question is None:
        with pytest.raises(InputError, match=r"f:1: /prompt: .* is no prompt of LLaVA's for TextVQA"):
            question_of(prompt, "f:1")
    else:
        assert question_of(prompt, "f:1") == question


def test_annotations_of_textvqa(tmp_path):
    asked = [("p1", "Which?", "1"), ("p1", "Where?", "2"), ("p1", "Where?", "3")]
    data = [
        {"image_id": image, "question": question, "question_id": n, "answers": [answer] * 10}
        for n, (image, question, answer) in enumerate(asked, 100)
    ]
    (tmp_path / "t.json").write_text(json.dumps({"data": data}))
    lines = [
        {"question_id": id, "prompt": f"{question}\nAnswer.", "text": "x"}
        for id, question in (("p1", "WHICH?"), (100, "which?"), ("p1", "where?"), (101, "Where?"))
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = annotated_answers([tmp_path / "a.jsonl"], tmp_path / "t.json")
    assert [one.references[0] for one in found] == ["1", "1", "3", "2"]
    (tmp_path / "a.jsonl").write_text(json.dumps({"question_id": "p2", "prompt": "Which?", "text": "x"}))
    with pytest.raises(InputError, match=r"a.jsonl:1: .*t.json has no question 'which\?' of 'p2'"):
        annotated_answers([tmp_path / "a.jsonl"], tmp_path / "t.json")


def test_names_of_models():
    assert model_name("runs/llava/") == "llava"
    assert model_name("runs/llava/checkpoint-7") == "llava_checkpoint-7"
    assert model_name("tiny") == "tiny"
