"""What a data set says: records of turns, and the pictures that they name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class ImageRef:
    """A picture that a record names, not yet opened.

    ``kind`` says what ``value`` is: a ``path`` under the image root, the id of a ``document`` in the document store,
    or the ``bytes`` of an encoded picture.
    """

    kind: Literal["path", "document", "bytes"]
    value: str | bytes


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation: text and pictures in their order."""

    role: Literal["system", "user", "assistant"]
    parts: tuple[str | ImageRef, ...]


@dataclass(frozen=True, slots=True)
class Record:
    """One validated line of a data set. ``where`` (``file:line``) names it in error messages."""

    id: str
    messages: tuple[Message, ...]
    where: str = ""

    @property
    def images(self) -> tuple[ImageRef, ...]:
        """Every picture, in reading order."""
        return tuple(part for message in self.messages for part in message.parts if isinstance(part, ImageRef))
