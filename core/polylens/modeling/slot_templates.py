"""Templates of conversations in which a picture is a run of slots before the text of its turn, as LLaVA has it.

Targets follow from places of characters in the text that is tokenised, so that no part is tokenised a second time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from transformers import PreTrainedTokenizerBase

from polylens.contracts import Encoding, Message, SlicedImage
from polylens.errors import InputError
from polylens.modeling.segments import Piece, Segment, tokens_and_labels
from polylens.modeling.turns import IMAGE, beginning, check_pictures, check_text, check_turns, pictures_in, text_of

__all__ = ["CaptionTemplate", "ConversationTemplate", "Style"]

Parts = Iterator[Piece | SlicedImage]


@dataclass(frozen=True, slots=True)
class Style:
    """What stands around the turns of a conversation.

    Attributes:
        default_system: the system text of a conversation that has none of its own.
        system: what stands before and after that text; nothing at all if it is empty.
        question: before and after a question. What follows it is the end of a prompt.
        answer: before and after an answer, both of which the model learns to say.
        end: the token that ends an answer.
        next_round: between an answer and the next question.
        system_inside: whether the system text stands behind what is before the first question, not before it.
        picture: around every picture.
    """

    default_system: str
    system: tuple[str, str]
    question: tuple[str, str]
    answer: tuple[str, str]
    end: str
    next_round: str = ""
    system_inside: bool = False
    picture: tuple[str, str] = ("", "")


class SlotTemplate:
    """What these templates share: text between pictures is tokenised as one string.

    Args:
        end: the token that ends an answer.
        advice: how else pictures may be made to fit, for the error message.
        places: makes tokens and their places of text; the tokenizer itself by default.
        marks: tokens before and after each picture, beside what the style says.

    Attributes:
        stop_ids: tokens that end an answer.

    Raises:
        InputError: the tokenizer lacks one of the tokens.
    """

    stop_ids: Sequence[int]

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        end: str,
        *,
        advice: str = "",
        places: Any = None,
        marks: tuple[str, str] = ("", ""),
    ) -> None:
        self.tokenizer, self.end, self.marks = tokenizer, end, marks
        self._advice, self._places = advice, tokenizer if places is None else places
        vocabulary = tokenizer.get_vocab()
        for token in filter(None, (end, *marks)):
            if token not in vocabulary or tokenizer.encode(token, add_special_tokens=False) != [vocabulary[token]]:
                raise InputError(f"the tokenizer has no token {token!r}, which this template needs")
        self.stop_ids = (vocabulary[end],)
        self._slot = vocabulary[end]
        special = map(str, tokenizer.all_special_tokens)
        self._refused = tuple(dict.fromkeys((IMAGE, end, *filter(None, marks), *special)))
        self._begin = beginning(tokenizer)

    def encode(
        self,
        messages: Sequence[Message],
        images: Sequence[SlicedImage],
        *,
        style: Literal["chat", "plain"] = "chat",
        generation_prompt: bool = False,
        max_length: int | None = None,
    ) -> Encoding:
        """Tokens of a conversation, as ``polylens.contracts.ChatTemplate`` says.

        Raises:
            InputError: also if the turns are not user, assistant, user, ... or a ``plain`` text has several.
        """
        check_pictures(messages, images)
        for message in messages:
            check_text(text_of(message), self._refused)
        pictures = iter(images)
        parts = self._as_they_are(messages, pictures) if style == "plain" else self._chat(messages, pictures)
        said = [*parts, *(self._prompt_end() if style == "chat" and generation_prompt else ())]
        segments = self._segments(said)
        ids, labels = tokens_and_labels(segments, self._places, max_length, self._advice)
        return Encoding(ids, labels, [not segment.pieces for segment in segments for _ in segment.ids])

    def _chat(self, messages: Sequence[Message], pictures: Iterator[SlicedImage]) -> Parts:
        raise NotImplementedError

    def _prompt_end(self) -> Parts:
        """What follows the last question of a prompt."""
        return iter(())

    def _as_they_are(self, messages: Sequence[Message], pictures: Iterator[SlicedImage]) -> Parts:
        if len(messages) != 1:
            raise InputError(f"style 'plain' takes one message, and the record has {len(messages)}")
        for part in messages[0].parts:
            yield Piece(part) if isinstance(part, str) else next(pictures)

    def _segments(self, parts: Sequence[Piece | SlicedImage]) -> list[Segment]:
        """A picture is a segment without pieces."""
        segments = [Segment([Piece("")], before=self._begin)]
        for part in parts:
            if isinstance(part, SlicedImage):
                slots = (self._slot,) * part.visual_tokens
                segments += [Segment([], before=slots), Segment([Piece("")])]
            else:
                segments[-1].pieces.append(part)
        return segments


class ConversationTemplate(SlotTemplate):
    """Turns of a user and an assistant; pictures stand before the text of their turn, each in a line of its own.

    A blank before an answer, where the style has one, belongs to the answer's first token, which is supervised.

    Args:
        style: what stands around the turns.
        more: as for ``SlotTemplate``.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, style: Style, **more: Any) -> None:
        super().__init__(tokenizer, style.end, **more)
        self.style = style

    def _chat(self, messages: Sequence[Message], pictures: Iterator[SlicedImage]) -> Parts:
        check_turns(messages)
        style, own = self.style, messages[0].role == "system"
        system = text_of(messages[0]) if own else style.default_system
        said = Piece(system.join(style.system), fixed=True) if system else Piece("")
        if not style.system_inside:
            yield said
        for place, message in enumerate(messages[own:]):
            if message.role == "assistant":
                yield from self._answer(text_of(message))
                continue
            yield Piece((style.next_round if place else "") + style.question[0], fixed=True)
            if not place and style.system_inside:
                yield said
            yield from self._question(message, pictures)
            if place + own + 1 < len(messages):
                yield from self._prompt_end()

    def _prompt_end(self) -> Parts:
        yield Piece(self.style.question[1], fixed=True)

    def _answer(self, text: str) -> Parts:
        before, after = self.style.answer
        yield Piece(before + text, supervised=True)
        yield Piece(after + self.end, fixed=True, supervised=True)

    def _question(self, message: Message, pictures: Iterator[SlicedImage]) -> Parts:
        shown = pictures_in(message)
        text = text_of(message).strip() if shown else text_of(message)
        left, right = self.style.picture[0] + self.marks[0], self.marks[1] + self.style.picture[1]
        for number in range(shown):
            yield Piece(("\n" if number else "") + left, fixed=True)
            yield next(pictures)
            yield Piece(right, fixed=True)
        yield Piece(f"\n{text}" if shown and text else text)


class CaptionTemplate(SlotTemplate):
    """``<image>{caption}\\n``, to train a connector: no question, no system turn, and a line break for the end.

    Args:
        name: of the template, for messages.
        more: as for ``SlotTemplate``.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, name: str, **more: Any) -> None:
        super().__init__(tokenizer, str(tokenizer.eos_token), **more)
        self.name = name
        line_end = tokenizer.encode("a\n", add_special_tokens=False)[-1]
        self.stop_ids: Sequence[int] = (line_end, *self.stop_ids)

    def _chat(self, messages: Sequence[Message], pictures: Iterator[SlicedImage]) -> Parts:
        roles = [message.role for message in messages]
        if roles not in (["user"], ["user", "assistant"]):
            raise InputError(
                f"the turns are {', '.join(roles)}; the template {self.name!r} takes a picture and its caption: user, "
                "assistant. Use another template for conversations"
            )
        yield from pictures
        for message in messages[1:]:
            yield Piece(text_of(message), supervised=True)
            yield Piece("\n", fixed=True, supervised=True)
