"""ChatML with pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from polylens.contracts import IGNORE_INDEX, Encoding, ImageRef, Message, SlicedImage
from polylens.errors import InputError
from polylens_qwen2_5_vl.tokenizer import IMAGE_PAD, SPECIAL, TEXT_END, TURN_END, TURN_START, VISION_END, VISION_START

SYSTEM = Message("system", ("You are a helpful assistant.",))
"""Put before a conversation that has no system message, as in the published chat template."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A run of tokens of one kind: the user's text, which may be shortened, or structure and pictures, which not."""

    ids: list[int]
    is_text: bool = False
    supervised: bool = False


class ChatML:
    """Writes conversations as Qwen2.5-VL's own chat template does, and single messages as they are.

    A picture is ``<|vision_start|>``, one ``<|image_pad|>`` per visual token, ``<|vision_end|>``.

    Attributes:
        stop_ids: the end of a turn, and the end of a text, which the published models also stop at.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._image_pad = tokenizer.convert_tokens_to_ids(IMAGE_PAD)
        self.stop_ids = tuple(tokenizer.convert_tokens_to_ids([TURN_END, TEXT_END]))

    def encode(
        self,
        messages: Sequence[Message],
        images: Sequence[SlicedImage],
        *,
        style: Literal["chat", "plain"] = "chat",
        generation_prompt: bool = False,
        max_length: int | None = None,
    ) -> Encoding:
        """Tokens of a conversation; see ``polylens.contracts.ChatTemplate``. Text is cut from the end backwards."""
        wanted = sum(isinstance(part, ImageRef) for message in messages for part in message.parts)
        if wanted != len(images):
            raise InputError(f"the conversation has {wanted} pictures, and {len(images)} were given")
        pictures = iter(images)
        if style == "plain":
            pieces = list(self._plain(messages, pictures))
        else:
            pieces = list(self._chat(messages, pictures, generation_prompt))
        return self._join(pieces if max_length is None else shorten(pieces, max_length))

    def _plain(self, messages: Sequence[Message], pictures: Iterator[SlicedImage]) -> Iterator[Piece]:
        if len(messages) != 1:
            raise InputError(f"style 'plain' takes a single message, not {len(messages)}")
        yield from self._parts(messages[0], pictures)

    def _chat(
        self, messages: Sequence[Message], pictures: Iterator[SlicedImage], generation_prompt: bool
    ) -> Iterator[Piece]:
        if not messages or messages[0].role != "system":
            messages = [SYSTEM, *messages]
        for message in messages:
            answer = message.role == "assistant"
            yield self._structure(f"{TURN_START}{message.role}\n")
            for piece in self._parts(message, pictures):
                yield replace(piece, supervised=answer and piece.is_text)
            yield replace(self._structure(TURN_END), supervised=answer)
            yield self._structure("\n")
        if generation_prompt:
            yield self._structure(f"{TURN_START}assistant\n")

    def _parts(self, message: Message, pictures: Iterator[SlicedImage]) -> Iterator[Piece]:
        for part in message.parts:
            if isinstance(part, ImageRef):
                slots = IMAGE_PAD * next(pictures).visual_tokens
                yield self._structure(f"{VISION_START}{slots}{VISION_END}")
            else:
                yield self._text(part)

    def _structure(self, text: str) -> Piece:
        return Piece(self._tokenizer.encode(text, add_special_tokens=False))

    def _text(self, text: str) -> Piece:
        for token in SPECIAL:
            if token in text:
                raise InputError(f"a text contains {token}, which has a meaning of its own; remove it")
        return Piece(self._tokenizer.encode(text, add_special_tokens=False), is_text=True)

    def _join(self, pieces: Sequence[Piece]) -> Encoding:
        ids = [token for piece in pieces for token in piece.ids]
        labels = [token if piece.supervised else IGNORE_INDEX for piece in pieces for token in piece.ids]
        return Encoding(ids, labels, [token == self._image_pad for token in ids])


def shorten(pieces: Sequence[Piece], max_length: int) -> list[Piece]:
    """Cut text, the last one first, until everything fits.

    Raises:
        InputError: pictures and structure alone are longer than ``max_length``.
    """
    excess = sum(len(piece.ids) for piece in pieces) - max_length
    kept = []
    for piece in reversed(pieces):
        cut = min(max(excess, 0), len(piece.ids)) if piece.is_text else 0
        excess -= cut
        kept.append(replace(piece, ids=piece.ids[: len(piece.ids) - cut]))
    if excess > 0:
        raise InputError(
            f"pictures and role tags take {max_length + excess} tokens, more than the limit of {max_length}; "
            "raise the limit or lower max_pixels"
        )
    return kept[::-1]
