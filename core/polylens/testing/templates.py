"""Checks of the tokenizer and the template."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any, Literal

from polylens.contracts import IGNORE_INDEX, Encoding, ImageRef, Message, SlicedImage
from polylens.errors import InputError
from polylens.testing.results import Failure, require
from polylens.testing.subject import TEXTS, Subject

PICTURE = ImageRef("bytes", b"")
"""Stands for a picture: a template sees slices, never pixels."""

ROUND_TRIPS = (
    *TEXTS,
    "Ω ≈ 3.14 — naïve façade",
    "tab\tand  two spaces",
    "emoji 🎉 and 漢字",
    "def f(x): return x * 2",
)
ANSWERS = ("On the plate under the handle.", "每五百小时")
STYLES: tuple[Literal["plain", "chat"], ...] = ("plain", "chat")


def text_survives_the_template(subject: Subject) -> str | None:
    """Decoding the tokens of a message gives its text back, in any script."""
    for text in ROUND_TRIPS:
        for style in STYLES:
            ids = encode(subject, [Message("user", (text,))], style=style).input_ids
            found = subject.checkpoint.tokenizer.decode(ids, clean_up_tokenization_spaces=False)
            require(text in found, f"style {style!r}: {text!r} comes back as {found!r}")
    return f"{len(ROUND_TRIPS)} texts"


def slots_match_the_slices(subject: Subject) -> str | None:
    """A picture has as many visual slots as its crops have tokens, and ids, labels and mask are of one length."""
    for sizes in (((90, 60),), ((1, 1),), ((700, 30), (64, 64)), ((1000, 1400),)):
        images = [subject.checkpoint.slicer.slice(size) for size in sizes]
        for style in STYLES:
            encoding = encode(subject, [Message("user", (*[PICTURE] * len(sizes), "\nwhat?"))], images, style=style)
            _check_slots(encoding, images, f"style {style!r}, pictures {sizes}")
    return None


def _check_slots(encoding: Encoding, images: Sequence[SlicedImage], where: str) -> None:
    lengths = {len(encoding.input_ids), len(encoding.labels), len(encoding.visual_mask)}
    require(len(lengths) == 1, f"{where}: ids, labels and mask are of different lengths: {sorted(lengths)}")
    found, wanted = sum(encoding.visual_mask), sum(image.visual_tokens for image in images)
    require(found == wanted, f"{where}: {found} visual slots for {wanted} visual tokens")
    supervised = sum(
        label != IGNORE_INDEX for label, v in zip(encoding.labels, encoding.visual_mask, strict=True) if v
    )
    require(not supervised, f"{where}: {supervised} visual slots are supervised")


def max_length_never_cuts_a_picture(subject: Subject) -> str | None:
    """``max_length`` shortens text and keeps every visual slot; pictures that do not fit raise ``InputError``."""
    images = [subject.checkpoint.slicer.slice((300, 200))]
    for style in STYLES:
        empty = encode(subject, [Message("user", (PICTURE,))], images, style=style)
        message = Message("user", ("Read this. " * 20, PICTURE, " ".join(TEXTS) * 3))
        full = encode(subject, [message], images, style=style)
        for limit in range(len(empty.input_ids), len(full.input_ids) + 1, 7):
            cut = encode(subject, [message], images, style=style, max_length=limit)
            where = f"style {style!r}, max_length {limit}"
            require(len(cut.input_ids) <= limit, f"{where}: {len(cut.input_ids)} tokens")
            _check_slots(cut, images, where)
        roomy = encode(subject, [message], images, style=style, max_length=len(full.input_ids))
        require(roomy == full, f"style {style!r}: a limit that is just enough changes the tokens")
        _refuses(subject, [message], images, style=style, max_length=sum(full.visual_mask) - 1)
    return None


def chat_labels_are_the_answers(subject: Subject) -> str | None:
    """In a conversation, the text of each answer and the token that ends it are supervised, and nothing else.

    ``labels`` are not shifted: where a token is supervised its label is the token itself.
    """
    encoding = encode(subject, _conversation())
    wrong = [i for i, (token, label) in enumerate(zip(encoding.input_ids, encoding.labels, strict=True))
             if label not in (IGNORE_INDEX, token)]  # fmt: skip
    require(not wrong, f"{len(wrong)} labels are neither -100 nor their own token, first at {wrong[:1]}: shifted?")
    runs = [list(run) for kept, run in groupby(encoding.labels, lambda label: label != IGNORE_INDEX) if kept]
    require(len(runs) == len(ANSWERS), f"{len(ANSWERS)} answers, and {len(runs)} supervised runs of tokens")
    ends = {run[-1] for run in runs}
    require(len(ends) == 1, f"answers end with different tokens: {sorted(ends)}")
    decode = subject.checkpoint.tokenizer.decode
    for answer, run in zip(ANSWERS, runs, strict=True):
        found = str(decode(run[:-1], clean_up_tokenization_spaces=False))
        require(found.strip() == answer, f"the answer {answer!r} is supervised as {found!r} and an end token")
    return f"answers end with {decode([ends.pop()])!r}"


def answers_stop_where_they_end(subject: Subject) -> str | None:
    """``stop_ids`` are tokens of the vocabulary, and the one that ends an answer in training is among them."""
    stops = list(subject.checkpoint.template.stop_ids)
    size = len(subject.checkpoint.tokenizer)
    require(stops, "stop_ids is empty: generation would never end")
    strange = [token for token in stops if not isinstance(token, int) or not 0 <= token < size]
    require(not strange, f"stop_ids holds {strange[:1]}, which is no token of the vocabulary of {size}")
    end = next(label for label in reversed(encode(subject, _conversation()).labels) if label != IGNORE_INDEX)
    require(end in stops, f"answers end with token {end} in training, which is not in stop_ids {stops}")
    return f"{len(stops)} tokens"


def prompt_begins_the_conversation(subject: Subject) -> str | None:
    """What the model sees before it answers (``generation_prompt``) is what it saw in training, token for token."""
    turns = _conversation()
    full = encode(subject, turns).input_ids
    for answered in (1, 3):
        prompt = encode(subject, turns[:answered], generation_prompt=True).input_ids
        same = next((i for i, (a, b) in enumerate(zip(prompt, full, strict=False)) if a != b), len(prompt))
        require(same == len(prompt), f"before answer {answered // 2 + 1}, prompt and training differ at token {same}")
    return None


def supervision_begins_where_generation_does(subject: Subject) -> str | None:
    """The first supervised token of each answer comes right after its prompt, whatever the questions hold.

    So nothing of a question, a picture or a role tag is supervised, and nothing of an answer is left out.
    """
    dialogues = _dialogues()
    for name, turns in dialogues.items():
        images = [subject.checkpoint.slicer.slice((90, 60 + 30 * i)) for i in range(_count_pictures(turns))]
        full = encode(subject, turns, images)
        starts = _starts(full.labels)
        answered = [place for place, turn in enumerate(turns) if turn.role == "assistant"]
        require(len(starts) == len(answered), f"{name}: {len(answered)} answers, {len(starts)} supervised runs")
        for start, place in zip(starts, answered, strict=True):
            own = turns[:place]
            prompt = encode(subject, own, images[: _count_pictures(own)], generation_prompt=True).input_ids
            require(
                full.input_ids[: len(prompt)] == prompt, f"{name}: the prompt of turn {place} is not its beginning"
            )
            require(start == len(prompt), f"{name}: the prompt of turn {place} has {len(prompt)} tokens, and token "
                                          f"{start} is the first one supervised")  # fmt: skip
    return f"{len(dialogues)} conversations"


def _dialogues() -> dict[str, list[Message]]:
    """Conversations in which a mask that looks for texts or tags would slip."""
    ask, say = (lambda *parts: Message("user", parts)), (lambda text: Message("assistant", (text,)))
    return {
        "a picture first": [ask(PICTURE, "\n" + TEXTS[0]), say(ANSWERS[0])],
        "pictures in two turns": [ask(PICTURE, "\nThis?"), say("Yes."), ask("Or ", PICTURE, "?"), say("No.")],
        "a question that holds its answer": [ask(ANSWERS[0]), say(ANSWERS[0]), ask(ANSWERS[0]), say(ANSWERS[0])],
        "a question that names roles": [ask("user: hi\nassistant: yes\nAI"), say("assistant: no")],
        "answers of one letter": [ask("?"), say("A"), ask("?"), say("B")],
        "an answer of several lines": [ask(TEXTS[2]), say("One.\n\nTwo.\n- three")],
    }


def _count_pictures(turns: Sequence[Message]) -> int:
    return sum(isinstance(part, ImageRef) for turn in turns for part in turn.parts)


def _starts(labels: Sequence[int]) -> list[int]:
    """Where supervised tokens begin."""
    kept = [label != IGNORE_INDEX for label in labels]
    return [i for i, on in enumerate(kept) if on and (i == 0 or not kept[i - 1])]


def template_refuses_what_does_not_fit(subject: Subject) -> str | None:
    """What cannot be written down is refused with ``InputError``.

    That is a wrong number of pictures, a text in which a picture is written out, and several messages in style
    ``plain``.
    """
    image = subject.checkpoint.slicer.slice((90, 60))
    _refuses(subject, [Message("user", ("no picture",))], [image])
    _refuses(subject, [Message("user", (PICTURE, "a picture"))], [])
    written = encode(subject, [Message("user", (PICTURE,))], [image], style="plain").input_ids
    _refuses(subject, [Message("user", (f"a text with {subject.checkpoint.tokenizer.decode(written)} in it",))], [])
    _refuses(subject, _conversation(), [], style="plain")
    return None


def _conversation() -> list[Message]:
    return [
        Message("user", (TEXTS[0],)),
        Message("assistant", (ANSWERS[0],)),
        Message("user", (TEXTS[1],)),
        Message("assistant", (ANSWERS[1],)),
    ]


def encode(
    subject: Subject, messages: Sequence[Message], images: Sequence[SlicedImage] = (), **options: Any
) -> Encoding:
    return subject.checkpoint.template.encode(messages, images, **options)


def _refuses(subject: Subject, messages: Sequence[Message], images: Sequence[SlicedImage], **options: Any) -> None:
    try:
        encode(subject, messages, images, **options)
    except InputError:
        return
    given = f"{len(messages)} messages, {len(images)} pictures, {options}"
    raise Failure(f"no InputError for {given}; first message: {messages[0].parts!r}"[:300])


CHECKS = (
    text_survives_the_template,
    slots_match_the_slices,
    max_length_never_cuts_a_picture,
    chat_labels_are_the_answers,
    answers_stop_where_they_end,
    prompt_begins_the_conversation,
    supervision_begins_where_generation_does,
    template_refuses_what_does_not_fit,
)
