"""The templates of versions 2.5 (Llama 3) and 2.6 (ChatML)."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polylens.contracts import IGNORE_INDEX, ImageRef, Message
from polylens.errors import InputError

REF = ImageRef("path", "page.png")
SLICED, SMALL = (400, 560), (50, 50)
HEADER = {"2.5": "<|start_header_id|>{}<|end_header_id|>\n\n", "2.6": "<|im_start|>{}\n"}
END = {"2.5": "<|eot_id|>", "2.6": "<|im_end|>"}
GAP = {"2.5": "", "2.6": "\n"}
BEGINNING = {"2.5": "<|begin_of_text|>", "2.6": "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"}


def user(*parts):
    return Message("user", parts)


def answer(text):
    return Message("assistant", (text,))


def turn(kit, role, text):
    return HEADER[kit.version].format(role) + text + END[kit.version] + GAP[kit.version]


def encode(kit, messages, sizes=(), template=None, **options):
    return (template or kit.template).encode(messages, [kit.slicer.slice(size) for size in sizes], **options)


def text_of(kit, encoding):
    return kit.tokenizer.decode(encoding.input_ids)


def supervised(kit, encoding):
    return kit.tokenizer.decode([label for label in encoding.labels if label != IGNORE_INDEX])


def original(kit):
    compat = type(kit.options.compat)(original_targets=True)
    options = type(kit.options)(compat=compat)
    about = {"family": kit.family, "config": kit.config, "tokenizer": kit.tokenizer}
    return kit.hooks.chat_template(**about, options=options)


def placeholder(kit, size, number=0):
    sliced, slots = kit.slicer.slice(size), "<unk>" * kit.config["query_num"]
    image = f"<image>{slots}</image>"
    cell = image if kit.version == "2.5" else f"<slice>{slots}</slice>"
    rows = "\n".join(cell * sliced.grid[0] for _ in range(sliced.grid[1])) if sliced.grid else ""
    if kit.version == "2.5":
        return image + (f"<slice>{rows}</slice>" if rows else "")
    return f"<image_id>{number}</image_id>{image}{rows}"


def test_a_conversation_of_several_turns(later):
    messages = [user(REF, "\nWhat?"), answer("A cat."), user("Why?"), answer("因为!")]
    encoding = encode(later, messages, [SLICED])
    turns = [("user", placeholder(later, SLICED) + "\nWhat?"), ("assistant", "A cat."), ("user", "Why?")]
    whole = "".join(turn(later, *spoken) for spoken in [*turns, ("assistant", "因为!")])
    assert text_of(later, encoding) == BEGINNING[later.version] + whole
    assert encoding.input_ids == later.tokenizer.encode(BEGINNING[later.version] + whole, add_special_tokens=False)
    assert supervised(later, encoding) == f"A cat.{END[later.version]}因为!{END[later.version]}"
    pairs = zip(encoding.labels, encoding.input_ids, strict=True)
    assert all(label in (IGNORE_INDEX, token) for label, token in pairs)
    assert sum(encoding.visual_mask) == 5 * later.config["query_num"]


def test_pictures_stand_anywhere_in_turns_of_the_user(later):
    messages = [user("Compare ", REF, " and ", REF), answer("Done."), user("With this: ", REF, "?")]
    encoding = encode(later, messages, [SMALL, SLICED, SMALL], generation_prompt=True)
    small, sliced, third = (placeholder(later, size, n) for n, size in enumerate([SMALL, SLICED, SMALL]))
    turns = [("user", f"Compare {small} and {sliced}"), ("assistant", "Done."), ("user", f"With this: {third}?")]
    expected = "".join(turn(later, *spoken) for spoken in turns) + HEADER[later.version].format("assistant")
    assert text_of(later, encoding) == BEGINNING[later.version] + expected
    assert sum(encoding.visual_mask) == 7 * later.config["query_num"]


def test_a_plain_text_has_no_turns(later):
    encoding = encode(later, [user("Represent: ", "coffee! ")], style="plain")
    beginning = "<|begin_of_text|>" if later.version == "2.5" else ""
    assert text_of(later, encoding) == beginning + "Represent: coffee! "
    assert set(encoding.labels) == {IGNORE_INDEX}


def test_a_system_turn_comes_first(later):
    system = Message("system", ("Be brief.",))
    found = text_of(later, encode(later, [system, user("Hello")]))
    beginning = "<|begin_of_text|>" if later.version == "2.5" else ""
    assert found == beginning + turn(later, "system", "Be brief.") + turn(later, "user", "Hello")
    with pytest.raises(InputError, match="the turns are user, system"):
        encode(later, [user("Hello"), system])


def test_2_5_drops_white_space_around_texts_as_its_chat_template_does(tiny25):
    messages = [user(" \n ", REF, "\nWhat?  "), answer("\n A cat. "), user(" ", "  "), answer(" ")]
    found = text_of(tiny25, encode(tiny25, messages, [SMALL]))
    turns = [
        ("user", placeholder(tiny25, SMALL) + "\nWhat?"),
        ("assistant", "A cat."),
        ("user", ""),
        ("assistant", ""),
    ]
    assert found == "<|begin_of_text|>" + "".join(turn(tiny25, *spoken) for spoken in turns)


def test_2_6_keeps_white_space(tiny26):
    found = encode(tiny26, [user(" Hello \n"), answer("\nHi ")])
    assert supervised(tiny26, found) == "\nHi <|im_end|>"
    assert text_of(tiny26, found).endswith("user\n Hello \n<|im_end|>\n<|im_start|>assistant\n\nHi <|im_end|>\n")


@pytest.mark.parametrize("text", ["A cat.", "\n\nlater", "  indented", "!!", "。"])
def test_training_begins_with_what_inference_sees(later, text):
    check_beginning(later, later.template, text)


def test_so_do_the_original_targets(later):
    check_beginning(later, original(later), "A cat.")


def check_beginning(later, template, text):
    prompt = encode(later, [user(REF, "\nWhat?")], [SMALL], template, generation_prompt=True)
    whole = encode(later, [user(REF, "\nWhat?"), answer(text)], [SMALL], template)
    assert whole.input_ids[: len(prompt.input_ids)] == prompt.input_ids
    assert set(whole.labels[: len(prompt.input_ids)]) == {IGNORE_INDEX}


def test_answers_stop_at_the_end_of_a_turn_or_of_the_text(later):
    ends = {"2.5": ["<|eot_id|>", "<|end_of_text|>"], "2.6": ["<|im_end|>", "<|endoftext|>"]}
    assert later.tokenizer.convert_ids_to_tokens(list(later.template.stop_ids)) == ends[later.version]


def test_original_targets_teach_ends_twice(later):
    encoding = encode(later, [user("a"), answer("b"), user("c"), answer("d")], template=original(later))
    end = END[later.version]
    last = end if later.version == "2.5" else end * 2  # nothing follows the last answer of 2.5
    assert supervised(later, encoding) == f"b{end}{end}d{last}"
    assert encoding.input_ids == encode(later, [user("a"), answer("b"), user("c"), answer("d")]).input_ids


def test_original_targets_of_an_empty_answer_swallow_the_next_turn(later):
    encoding = encode(later, [user("a"), answer(""), user("c"), answer("d")], template=original(later))
    assert "c" in supervised(later, encoding)
    right = encode(later, [user("a"), answer(""), user("c"), answer("d")])
    assert supervised(later, right) == f"{END[later.version]}d{END[later.version]}"


def test_original_pictures_get_line_breaks_and_only_sliced_ones_a_number(later):
    found = text_of(later, encode(later, [user("a ", REF, REF, " b")], [SMALL, SLICED], original(later)))
    small, sliced = placeholder(later, SMALL).removeprefix("<image_id>0</image_id>"), placeholder(later, SLICED)
    assert f"a \n{small}\n\n{sliced}\n b" in found
    one = text_of(later, encode(later, [user("a ", REF, " b")], [SLICED], original(later)))
    assert f"a {sliced} b" in one


def test_pictures_are_numbered_as_config_json_says(tiny26):
    config = {**tiny26.config, "use_image_id": False}
    about = {"family": tiny26.family, "tokenizer": tiny26.tokenizer, "options": tiny26.options}
    template = tiny26.hooks.chat_template(**about, config=config)
    assert "<image_id>" not in text_of(tiny26, encode(tiny26, [user(REF)], [SLICED], template))


def test_a_picture_is_never_cut_and_a_shortened_answer_does_not_teach_to_stop(later):
    turns = [user(REF, "\nWhat is on the page?"), answer("one two three four five six seven eight nine ten eleven")]
    whole = encode(later, turns, [SLICED])
    cut = encode(later, turns, [SLICED], max_length=len(whole.input_ids) - 4)
    assert len(cut.input_ids) == len(whole.input_ids) - 4
    assert sum(cut.visual_mask) == sum(whole.visual_mask)
    assert END[later.version] not in supervised(later, cut)
    assert "one two three" in supervised(later, cut)
    with pytest.raises(InputError, match=r"the limit is 60; raise the maximal length .* max_slice_nums"):
        encode(later, turns, [SLICED], max_length=60)


@settings(max_examples=40, deadline=None)
@given(texts=st.lists(st.text(max_size=30), min_size=1, max_size=4), limit=st.integers(70, 110))
def test_any_text_fits_any_limit(later, texts, limit):
    messages = [Message("user" if place % 2 == 0 else "assistant", (text,)) for place, text in enumerate(texts)]
    messages[0] = user(REF, texts[0])
    encoding = encode(later, messages, [SMALL], max_length=limit)
    assert len(encoding.input_ids) <= limit
    assert sum(encoding.visual_mask) == later.config["query_num"]
    assert len(encoding.input_ids) == len(encoding.labels) == len(encoding.visual_mask)


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([user("see <image>")], "contains the image token '<image>'"),
        ([user("see </slice>")], "contains the image token '</slice>'"),
        ([user("stop {end} here")], "contains '{end}', which MiniCPM-.* writes around turns"),
        ([user("a"), answer("b {end}")], "contains '{end}'"),
        ([answer("hello")], "the turns are assistant; they must be user"),
        ([user("a"), user("b")], "the turns are user, user"),
        ([], "the turns are none"),
        ([user(REF)], "names 1 pictures, and 0 were given"),
    ],
)
def test_bad_conversations_are_refused(later, messages, message):
    end = END[later.version]
    told = [
        Message(m.role, tuple(p.replace("{end}", end) if isinstance(p, str) else p for p in m.parts)) for m in messages
    ]
    with pytest.raises(InputError, match=message.replace("{end}", end.replace("|", r"\|"))):
        encode(later, told)


def said(part, end):
    return part.replace("{end}", end) if isinstance(part, str) else part


def test_only_users_show_pictures(later):
    with pytest.raises(InputError, match="the assistant turn holds a picture"):
        encode(later, [user("a"), Message("assistant", (REF,))], [SMALL])
    with pytest.raises(InputError, match="the system turn holds a picture"):
        encode(later, [Message("system", (REF,)), user("a")], [SMALL])


def test_a_type_of_another_version_is_refused(later):
    right, other = {"2.5": ("llama3", "qwen"), "2.6": ("qwen", "minicpm")}[later.version]
    about = {"family": later.family, "config": later.config, "tokenizer": later.tokenizer}
    later.hooks.chat_template(**about, options=later.family.options(llm_type=right))
    with pytest.raises(InputError, match=f"describes MiniCPM-V {later.version}, whose type is '{right}'"):
        later.hooks.chat_template(**about, options=later.family.options(llm_type=other))
