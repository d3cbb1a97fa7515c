"""Records of conversations as questions with the answers that are known to be right."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from polylens.contracts import ImageRef, Message, Record
from polylens.data.placeholders import Said, place_pictures
from polylens.data.records import BadRecord
from polylens.errors import InputError

if TYPE_CHECKING:
    from polylens.generation.formats.items import Item

QUESTION = "{question}"
"""Where the question stands in a prompt."""


@dataclass(frozen=True, slots=True)
class Question:
    """What a model is asked.

    Attributes:
        record: the conversation up to the last user turn.
        references: answers that are known to be right; they are not shown to the model.
        item: the question of a benchmark that it is.
    """

    record: Record
    references: tuple[str, ...] = ()
    item: Item | None = None

    @property
    def text(self) -> str:
        """The words of the last turn."""
        return text_of(self.record.messages[-1])


def question(record: Record) -> Question:
    """A record without its last answer, which becomes the reference.

    Raises:
        InputError: the conversation is empty, or asks nothing.
    """
    messages, references = record.messages, ()
    if messages and messages[-1].role == "assistant":
        messages, references = messages[:-1], (text_of(messages[-1]),)
    if not messages or messages[-1].role != "user":
        where = record.where or record.id
        raise InputError(f"{where}: record {record.id!r}: there is no user turn to answer")
    return Question(replace(record, messages=messages), references)


def benchmark_question(item: Item, prompt: str = QUESTION, folder: str = "") -> Question:
    """A question of a benchmark, its picture on a line before it, or where ``<image>`` stands.

    Args:
        prompt: what is asked; ``{question}`` stands for the question.
        folder: put before the path of the picture.

    Raises:
        InputError: nothing is asked, or ``<image>`` stands there without a picture, or twice.
    """
    pictures = {} if item.image is None else {"0": ImageRef("path", os.path.join(folder, item.image))}
    problems = [] if item.question.strip() else ["an empty question"]
    said = Said("user", prompt.replace(QUESTION, item.question), "the question")
    parts, misplaced = place_pictures([said], pictures, False)
    if problems or misplaced:
        raise BadRecord(item.where, [*problems, *misplaced], record=item.id)
    return Question(Record(item.id, (Message("user", parts[0]),), item.where), item.references, item)


def text_of(message: Message) -> str:
    """The texts of a message without its pictures, and without white space around them."""
    return "".join(part for part in message.parts if isinstance(part, str)).strip()


def by_length(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Batches of numbers of like length: little padding, and what needs the most memory comes first.

    >>> by_length([3, 9, 4, 8], 2)
    [[1, 3], [2, 0]]
    """
    order = sorted(range(len(lengths)), key=lambda number: -lengths[number])
    return [order[start : start + size] for start in range(0, len(order), size)]
