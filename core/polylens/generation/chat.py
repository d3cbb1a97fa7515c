"""Conversations that go on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from polylens.contracts import ImageRef, Message, Record
from polylens.data.images import encoded_image, image_size
from polylens.errors import InputError
from polylens.generation.predictor import Predictor

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


class Conversation:
    """Turns so far, and pictures that wait for the next one.

    Args:
        reply: makes answers.
    """

    def __init__(self, reply: Reply) -> None:
        self._reply = reply
        self.messages: list[Message] = []
        self.pictures: list[ImageRef] = []

    def attach(self, path: Path) -> tuple[int, int]:
        """Show a picture with the next question; returns its width and height.

        Raises:
            InputError: it cannot be read.
        """
        data = encoded_image(path)
        size = image_size(data, str(path))
        self.pictures.append(ImageRef("bytes", data))
        return size

    def ask(self, text: str) -> Iterator[str]:
        """The answer, piece by piece. What was said when the caller stops counts; if nothing was, the turn does not.

        Raises:
            InputError: the question cannot be asked.
        """
        turn = Message("user", on_lines([*self.pictures, text]))
        pieces = self._reply([*self.messages, turn])
        said: list[str] = []
        try:
            for piece in pieces:
                said.append(piece)
                yield piece
        finally:
            answer = "".join(said).strip()
            if answer:
                self.messages += [turn, Message("assistant", (answer,))]
                self.pictures.clear()

    def reset(self) -> None:
        """Forget everything."""
        self.messages.clear()
        self.pictures.clear()
