"""A conversation as tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from polylens.contracts.images import SlicedImage
from polylens.contracts.records import Message

IGNORE_INDEX = -100
"""Label of a position that no loss sees."""


@dataclass(frozen=True, slots=True)
class Encoding:
    """A conversation as tokens.

    Attributes:
        input_ids: token ids, [T].
        labels: [T], **not** shifted: ``labels[i]`` is ``input_ids[i]`` where the token is supervised, else -100.
        visual_mask: [T], true where the embedding is replaced by a visual token, in the order of the crops.
    """

    input_ids: list[int]
    labels: list[int]
    visual_mask: list[bool]


class ChatTemplate(Protocol):
    """What the hook ``chat_template`` returns; the same object serves training and inference.

    ``stop_ids`` are the tokens that end an answer; generation stops at any of them.
    """

    stop_ids: Sequence[int]

    def encode(
        self,
        messages: Sequence[Message],
        images: Sequence[SlicedImage],
        *,
        style: Literal["chat", "plain"] = "chat",
        generation_prompt: bool = False,
        max_length: int | None = None,
    ) -> Encoding:
        """Tokens of a conversation.

        Args:
            images: one per ``ImageRef`` of the messages, in reading order.
            style: ``chat`` writes the role tags of the family; ``plain`` writes the parts of a single message as
                they are, as embedding models want it.
            generation_prompt: end with the header of an assistant turn.
            max_length: text is shortened to fit, never a picture.

        Raises:
            InputError: the pictures alone do not fit into ``max_length``; a text contains an image token; the number
                of ``images`` is not the number of picture parts.
        """
        ...
