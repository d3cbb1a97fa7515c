import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from minicpmv_records import original_records

from polylens.contracts import IGNORE_INDEX, ImageRef, Message
from polylens.errors import InputError
from polylens.modeling.segments import level
from polylens_minicpmv.slicing import MiniCPMVSlicer
from polylens_minicpmv.text.minicpm import MiniCPMTemplate
from polylens_minicpmv.text.tokenization import load_tokenizer

REF = ImageRef("path", "page.png")


def user(*parts):
    return Message("user", parts)


def answer(text):
    return Message("assistant", (text,))


@pytest.fixture(scope="module")
def template(tiny):
    return tiny.template


@pytest.fixture(scope="module")
def page(tiny):
    return tiny.slicer.slice((400, 560))


@pytest.fixture(scope="module")
def small(tiny):
    return tiny.slicer.slice((50, 50))


def test_plain_text_is_one_string_after_the_start_token(tiny, template):
    encoding = template.encode([user("Represent this query: ", "coffee")], [], style="plain")
    assert encoding.input_ids == tiny.tokenizer("Represent this query: coffee")["input_ids"]
    assert encoding.labels == [IGNORE_INDEX] * len(encoding.input_ids)
    assert not any(encoding.visual_mask)


def test_a_plain_document_is_the_picture_and_its_text(tiny, template, page):
    encoding = template.encode([user(REF, "\nwarranty")], [page], style="plain")
    one = "<image>" + "<unk>" * 16 + "</image>"
    text = f"{one}<slice>{one}{one}\n{one}{one}</slice>\nwarranty"
    assert encoding.input_ids == tiny.tokenizer(text)["input_ids"]
    assert sum(encoding.visual_mask) == page.visual_tokens == 80


def test_a_conversation(tiny, template, small):
    encoding = template.encode([user(REF, "\nWhat?"), answer("A cat."), user("Why?"), answer("因为")], [small])
    tokenizer = tiny.tokenizer
    first = tokenizer("<用户><image>" + "<unk>" * 16 + "</image>\nWhat?<AI>")["input_ids"]
    rest = [
        tokenizer.encode("A cat.", add_special_tokens=False),
        [2],
        tokenizer.encode("<用户>Why?<AI>", add_special_tokens=False),
        tokenizer.encode("因为", add_special_tokens=False),
        [2],
    ]
    assert encoding.input_ids == [*first, *itertools.chain(*rest)]
    supervised = [t for t in encoding.labels if t != IGNORE_INDEX]
    assert supervised == [*rest[0], 2, *rest[3], 2]
    pairs = zip(encoding.labels, encoding.input_ids, strict=True)
    assert all(label in (IGNORE_INDEX, token) for label, token in pairs)


@pytest.mark.parametrize("original_targets", [False, True])
def test_training_begins_with_what_inference_sees(tiny, small, original_targets):
    template = MiniCPMTemplate(tiny.tokenizer, original_targets=original_targets)
    prompt = template.encode([user(REF, "\nWhat?")], [small], generation_prompt=True)
    whole = template.encode([user(REF, "\nWhat?"), answer("A cat.")], [small])
    assert whole.input_ids[: len(prompt.input_ids)] == prompt.input_ids
    assert set(whole.labels[: len(prompt.input_ids)]) == {IGNORE_INDEX}
    assert IGNORE_INDEX not in whole.labels[len(prompt.input_ids) :]


def test_slots_outside_a_picture_are_text(template, small):
    encoding = template.encode([user("what is <unk>?", REF, "<unk>")], [small], style="plain")
    assert sum(encoding.visual_mask) == small.visual_tokens
    slots = [place for place, token in enumerate(encoding.input_ids) if token == 0]
    assert len(slots) == small.visual_tokens + 2
    assert not encoding.visual_mask[slots[0]]


def test_text_is_cut_at_its_end(template):
    whole = template.encode([user("how often should the filter be cleaned?")], [], style="plain").input_ids
    for limit in range(1, len(whole) + 2):
        cut = template.encode([user("how often should the filter be cleaned?")], [], style="plain", max_length=limit)
        assert cut.input_ids == whole[:limit]


def test_a_picture_is_never_cut(template, page):
    document = [user(REF, "\nwarranty and repair")]
    whole = template.encode(document, [page], style="plain")
    needed = whole.input_ids.index(14) + 1
    cut = template.encode(document, [page], style="plain", max_length=needed + 2)
    assert cut.input_ids == whole.input_ids[: needed + 2]
    assert sum(cut.visual_mask) == 80
    with pytest.raises(InputError, match=rf"{needed} tokens, and the limit is {needed - 1}.*max_slice_nums"):
        template.encode(document, [page], style="plain", max_length=needed - 1)


def test_the_longest_text_of_a_conversation_is_cut(template, small):
    turns = [user(REF, "\nWhat is on the page?"), answer("one two three four five six seven eight nine ten eleven")]
    whole = template.encode(turns, [small])
    cut = template.encode(turns, [small], max_length=len(whole.input_ids) - 4)
    prompt = len(template.encode(turns[:1], [small], generation_prompt=True).input_ids)
    assert len(cut.input_ids) == len(whole.input_ids) - 4
    assert cut.input_ids[:-1] == whole.input_ids[: len(cut.input_ids) - 1]
    assert cut.labels[prompt:-1] == cut.input_ids[prompt:-1]
    assert (cut.input_ids[-1], cut.labels[-1]) == (2, IGNORE_INDEX), "a cut answer does not teach to stop"


@given(st.lists(st.integers(0, 50), min_size=1, max_size=8), st.integers(0, 200))
def test_levelling_uses_the_whole_room(lengths, total):
    result = level(lengths, total)
    assert sum(result) == min(total, sum(lengths))
    assert all(0 <= short <= length for short, length in zip(result, lengths, strict=True))
    shortened = [short for short, length in zip(result, lengths, strict=True) if short < length]
    assert not shortened or max(result) <= min(shortened) + 1


@settings(max_examples=60, deadline=None)
@given(texts=st.lists(st.text(max_size=30), min_size=1, max_size=4), limit=st.integers(50, 90))
def test_any_text_fits_any_limit(tiny, texts, limit):
    messages = [Message("user" if place % 2 == 0 else "assistant", (text,)) for place, text in enumerate(texts)]
    messages[0] = user(REF, texts[0])
    sliced = tiny.slicer.slice((50, 50))
    try:
        encoding = tiny.template.encode(messages, [sliced], max_length=limit)
    except InputError as error:
        assert "image token" in str(error)  # noqa: PT017
    else:
        assert len(encoding.input_ids) <= limit
        assert sum(encoding.visual_mask) == 16
        assert len(encoding.input_ids) == len(encoding.labels) == len(encoding.visual_mask)


@pytest.mark.parametrize(
    ("messages", "style", "message"),
    [
        ([user("see <image>")], "chat", "contains the image token '<image>'"),
        ([user("</slice>")], "plain", "contains the image token '</slice>'"),
        ([user(REF)], "plain", "names 1 pictures, and 0 were given"),
        ([Message("system", ("be kind",)), user("hello")], "chat", "no system turn"),
        ([answer("hello")], "chat", "the turns are assistant; they must be user"),
        ([user("a"), user("b")], "chat", "the turns are user, user"),
        ([], "chat", "the turns are none"),
        ([user("a"), answer("b")], "plain", "takes one message, and the record has 2"),
    ],
)
def test_bad_conversations_are_refused(template, messages, style, message):
    with pytest.raises(InputError, match=message):
        template.encode(messages, [], style=style)


def test_an_answer_holds_no_picture(template, small):
    with pytest.raises(InputError, match="the assistant turn holds a picture"):
        template.encode([user("a"), Message("assistant", (REF,))], [small])


def test_original_targets_bit_for_bit(original):
    template = MiniCPMTemplate(load_tokenizer(original / "tokenizer", "2.0"), original_targets=True)
    slicer = MiniCPMVSlicer(56, 14, 4, 4)
    for messages, images, expected in original_records(original):
        encoding = template.encode(messages, [slicer.slice(image.size) for image in images])
        assert encoding.input_ids == expected["input_ids"]
        assert [*encoding.labels[1:], IGNORE_INDEX] == expected["labels"]
        places = [place for start, end in expected["image_bound"] for place in range(start, end)]
        assert [place for place, visual in enumerate(encoding.visual_mask) if visual] == places
