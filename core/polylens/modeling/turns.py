"""What templates of conversations have in common."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from polylens.contracts import ImageRef, Message, SlicedImage
from polylens.errors import InputError

IMAGE = "<image>"
"""What stands for a picture in data sets."""


def text_of(message: Message) -> str:
    """The text of a message, without its pictures."""
    return "".join(part for part in message.parts if isinstance(part, str))


def pictures_in(message: Message) -> int:
    """How many pictures it has."""
    return sum(isinstance(part, ImageRef) for part in message.parts)


def check_turns(messages: Sequence[Message]) -> None:
    """Refuse what is not user, assistant, user, ... after a system turn or none.

    Raises:
        InputError: the turns are others.
    """
    roles = [message.role for message in messages]
    spoken = roles[1:] if roles[:1] == ["system"] else roles
    if not spoken or spoken != ["user", "assistant"] * (len(spoken) // 2) + ["user"] * (len(spoken) % 2):
        raise InputError(f"the turns are {', '.join(roles) or 'none'}; they must be user, assistant, user, ...")


def check_pictures(messages: Sequence[Message], images: Sequence[SlicedImage]) -> None:
    """Refuse a wrong number of pictures, and pictures that are not the user's.

    Raises:
        InputError: there is such a picture.
    """
    wanted = sum(map(pictures_in, messages))
    if wanted != len(images):
        raise InputError(f"the record names {wanted} pictures, and {len(images)} were given")
    for message in messages:
        if message.role != "user" and pictures_in(message):
            raise InputError(f"the {message.role} turn holds a picture; this family reads pictures in user turns")


def check_text(text: str, refused: Sequence[str]) -> None:
    """Refuse a text in which a control token is written out.

    Raises:
        InputError: there is one.
    """
    found = [token for token in refused if token in text]
    if found:
        what = "pictures are given as parts of a message" if found[0] == IMAGE else "remove it"
        raise InputError(f"a text contains {found[0]!r}, which has a meaning of its own: {what}")


def beginning(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """What the tokenizer puts before a text."""
    whole, text = tokenizer.encode("a"), tokenizer.encode("a", add_special_tokens=False)
    return tuple(whole[: len(whole) - len(text)])
