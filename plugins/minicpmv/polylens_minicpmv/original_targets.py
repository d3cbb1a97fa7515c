"""Tokens and targets as the original fine-tuning of MiniCPM-V 2.0 made them (``compat.original_targets``).

Tags and texts are tokenised each on its own; there is no ``<s>``, and ``</s>`` follows the last message only. Where
an earlier answer ends, the target is ``</s>`` although the sequence goes on with the tag of the next turn.
"""

from __future__ import annotations

from collections.abc import Sequence

from polylens.contracts import IGNORE_INDEX, Message
from polylens_minicpmv.segments import Piece, Segment

TAGS = {"user": "<用户>", "assistant": "<AI>"}


def original_layout(
    messages: Sequence[Message], pieces: list[list[Piece]], generation_prompt: bool, eos: tuple[int, ...]
) -> list[Segment]:
    """One segment for each tag and one for each text."""
    segments = []
    for message, own in zip(messages, pieces, strict=True):
        segments.append(Segment([Piece(TAGS[message.role], fixed=True)]))
        segments.append(Segment(own, supervised=message.role == "assistant"))
    if generation_prompt:
        return [*segments, Segment([Piece(TAGS["assistant"], fixed=True)])]
    segments[-1].after = eos
    return segments


def original_targets(labels: Sequence[int], eos: int) -> list[int]:
    """Labels with the end token on the first token behind every answer that is not the last."""
    result = list(labels)
    for place in range(1, len(labels)):
        if labels[place] == IGNORE_INDEX and labels[place - 1] != IGNORE_INDEX:
            result[place] = eos
    return result
