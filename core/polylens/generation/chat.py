"""Conversations that go on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from polylens.contracts import ImageRef, Message, Record
from polylens.data.images import encoded_image
from polylens.errors import InputError
from polylens.generation.pictures import picture_bytes
from polylens.generation.predictor import Predictor

log = logging.getLogger(__name__)

Reply = Callable[[Sequence[Message]], Iterator[str]]
"""Makes the answer to a conversation, piece by piece."""


def stream_reply(predictor: Predictor, messages: Sequence[Message]) -> Iterator[str]:
    """The answer to the last user turn, piece by piece.

    Raises:
        InputError: a picture cannot be read, the family has no such turns, or the last turn is not of the user.
    """
    record = asked(messages)
    example = predictor.preparer.example(record, predictor.max_length)
    batch = predictor.checkpoint.collator("left")([example])
    return predictor.generator().stream(batch)


def asked(messages: Sequence[Message]) -> Record:
    """A conversation that waits for an answer, as a record.

    Raises:
        InputError: the last turn is not of the user.
    """
    if not messages or messages[-1].role != "user":
        raise InputError("the last turn of the conversation is not of the user: there is nothing to answer")
    return Record("chat", tuple(messages), "chat")


def message(value: Message | Mapping[str, Any]) -> Message:
    """A message as it is, or of ``{"role": ..., "content": ...}``.

    The content is a text, or a list of texts and pictures (``PIL.Image.Image``, encoded ``bytes``, or a ``Path``),
    which are put on lines of their own.

    Raises:
        InputError: anything else.
    """
    if isinstance(value, Message):
        return value
    if set(value) != {"role", "content"} or value["role"] not in ("system", "user", "assistant"):
        raise InputError(
            "a message is {'role': 'system' | 'user' | 'assistant', 'content': text or a list of texts and pictures}, "
            f"not {dict(value)!r:.200}"
        )
    content = value["content"]
    items = [content] if isinstance(content, str) else list(content)
    return Message(value["role"], on_lines([_part(item) for item in items]))


def on_lines(parts: Sequence[str | ImageRef]) -> tuple[str | ImageRef, ...]:
    """The parts with a line break after each but the last, as the published models were trained."""
    broken = [own for part in parts for own in (part, "\n")][:-1]
    return tuple(broken)


def _part(item: Any) -> str | ImageRef:
    if isinstance(item, str):
        return item
    if isinstance(item, Image.Image | bytes | Path):
        return ImageRef("bytes", encoded_image(item))
    raise InputError(f"a message holds texts and pictures (PIL.Image.Image, bytes, Path), not {type(item).__name__}")


@dataclass(frozen=True, slots=True)
class Room:
    """How much a model can be shown.

    Attributes:
        tokens: of a prompt at most.
        needed: what a conversation takes of them.
    """

    tokens: int
    needed: Callable[[Sequence[Message]], int]


def room(predictor: Predictor) -> Room | None:
    """What ``max_length`` of the predictor allows; without it, the positions that the model knows, less an answer.

    ``None`` if neither is known.
    """
    limit = predictor.max_length
    if limit is None:
        config = predictor.checkpoint.model.config.get_text_config()
        positions = getattr(config, "max_position_embeddings", None)
        if positions is None:
            return None
        limit = max(positions - predictor.options.max_new_tokens, positions // 2)
    preparer = predictor.preparer
    return Room(limit, lambda messages: len(preparer.outline(asked(messages))[0].input_ids))


class Conversation:
    """Turns so far, and pictures that wait for the next one.

    Args:
        reply: makes answers.
        room: what no longer fits is forgotten, the oldest turns first, and a warning says so.
        pictures: files of pictures that the first question is about.

    Attributes:
        messages: turns that are not forgotten.
        forgotten: how many are.
        pictures: shown with the next question.
    """

    def __init__(self, reply: Reply, room: Room | None = None, pictures: Iterable[bytes] = ()) -> None:
        self._reply, self._room = reply, room
        self.messages: list[Message] = []
        self.forgotten = 0
        self.pictures = [ImageRef("bytes", data) for data in pictures]

    def attach(self, source: str | Path) -> tuple[int, int]:
        """Show a picture with the next question; returns its width and height.

        Args:
            source: path or address.

        Raises:
            InputError: it cannot be read.
        """
        data, size = picture_bytes(source)
        self.pictures.append(ImageRef("bytes", data))
        return size

    def ask(self, text: str) -> Iterator[str]:
        """The answer, piece by piece. What was said when the caller stops counts; if nothing was, the turn does not.

        Raises:
            InputError: the question cannot be asked.
        """
        turn = Message("user", on_lines([*self.pictures, text]))
        old = self._too_old(turn)
        kept = self.messages[old:]
        pieces = self._reply([*kept, turn])
        said: list[str] = []
        try:
            for piece in pieces:
                said.append(piece)
                yield piece
        finally:
            answer = "".join(said).strip()
            if answer:
                self.messages = [*kept, turn, Message("assistant", (answer,))]
                self.forgotten += old
                self.pictures.clear()

    def _too_old(self, turn: Message) -> int:
        """The number of turns at the beginning that do not fit before ``turn`` any more."""
        if self._room is None:
            return 0
        fit = (n for n in range(0, len(self.messages) + 1, 2) if self._fits([*self.messages[n:], turn]))
        dropped = next(fit, None)
        if dropped is None:
            log.warning("the question is longer than %d tokens: its text is shortened", self._room.tokens)
        elif dropped:
            log.warning(
                "the conversation is longer than %d tokens: the model no longer sees its first %d turns",
                self._room.tokens,
                self.forgotten + dropped,
            )
        return len(self.messages) if dropped is None else dropped

    def _fits(self, messages: Sequence[Message]) -> bool:
        assert self._room is not None
        return self._room.needed(messages) <= self._room.tokens

    def reset(self) -> None:
        """Begin anew."""
        self.messages.clear()
        self.forgotten = 0
        self.pictures.clear()
