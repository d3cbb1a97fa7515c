"""Puts the pictures of a conversation where its text says that they stand."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Said", "pictures_of", "place_pictures"]

PLACEHOLDER = re.compile(r"<image(?:_(\d+))?>")


@dataclass(frozen=True, slots=True)
class Said:
    """A turn as it was read.

    Attributes:
        role: system, user or assistant.
        pointer: JSON pointer of the text.
    """

    role: str
    text: str
    pointer: str


@dataclass(frozen=True, slots=True)
class _Place:
    turn: int
    name: str
    start: int
    end: int


def pictures_of(image: Any) -> tuple[dict[str, Any], bool]:
    """The pictures of a record by the name that placeholders use, and whether the record gave these names itself.

    >>> pictures_of(["a.png", "b.png"])
    ({'0': 'a.png', '1': 'b.png'}, False)
    """
    if image is None:
        return {}, False
    if isinstance(image, dict) and image.keys() != {"document"}:
        return dict(image), True
    several = image if isinstance(image, list) else [image]
    return {str(number): picture for number, picture in enumerate(several)}, False


def place_pictures(
    turns: Sequence[Said], pictures: Mapping[str, Any], named: bool
) -> tuple[list[tuple[Any, ...]], list[str]]:
    """The parts of every turn, texts and pictures in their order, and what is wrong.

    ``<image>`` stands for the next picture, ``<image_NN>`` for number NN from 0 (or, if the record names its pictures,
    for the one of that name). A single picture without a placeholder comes before the first user text, on a line of
    its own.

    Args:
        pictures, named: as ``pictures_of`` gives them.
    """
    places = list(_places(turns, named))
    problems = [*_forms(turns, places, named), *_used(turns, places, pictures)]
    if not places and len(pictures) == 1:
        return _before_first_user(turns, next(iter(pictures.values()))), problems
    problems += [
        f"/image{f'/{name}' if named or len(pictures) > 1 else ''}: this picture has no placeholder in a user turn; "
        f"write {name if named else '<image>'} where it stands"
        for name in pictures
        if name not in {place.name for place in places}
    ]
    if problems:
        return [], problems
    return [tuple(_parts(turn.text, i, places, pictures)) for i, turn in enumerate(turns)], []


def _places(turns: Sequence[Said], named: bool) -> Iterator[_Place]:
    """Placeholders in reading order, each with the name of its picture."""
    counter = 0
    for i, turn in enumerate(turns):
        for found in PLACEHOLDER.finditer(turn.text):
            number = found[1]
            name = found[0] if named else str(counter if number is None else int(number))
            counter += number is None
            yield _Place(i, name, *found.span())


def _forms(turns: Sequence[Said], places: Sequence[_Place], named: bool) -> list[str]:
    """Placeholders of both kinds in one record, or in a turn that is not the user's."""
    written = {_text(turns, place) == "<image>" for place in places}
    mixed = ["/conversations: has <image> and <image_NN>; use one kind"] if len(written) > 1 and not named else []
    return mixed + [
        f"{turns[place.turn].pointer}: {_text(turns, place)} stands in {_article(turns[place.turn].role)} turn; "
        "pictures are shown in user turns"
        for place in places
        if turns[place.turn].role != "user"
    ]


def _used(turns: Sequence[Said], places: Sequence[_Place], pictures: Mapping[str, Any]) -> list[str]:
    """Placeholders without a picture, and those that show a picture again."""
    problems, seen = [], set()
    count = f"the record has {len(pictures) or 'no'} picture{'' if len(pictures) == 1 else 's'}"
    for place in places:
        where, written = turns[place.turn].pointer, _text(turns, place)
        if place.name not in pictures:
            problems.append(f"{where}: {written} has no picture: {count}")
        elif place.name in seen:
            problems.append(f"{where}: {written} stands here again; a picture has one place")
        seen.add(place.name)
    return problems


def _text(turns: Sequence[Said], place: _Place) -> str:
    return turns[place.turn].text[place.start : place.end]


def _article(role: str) -> str:
    return f"an {role}" if role == "assistant" else f"a {role}"


def _before_first_user(turns: Sequence[Said], picture: Any) -> list[tuple[Any, ...]]:
    first = next((i for i, turn in enumerate(turns) if turn.role == "user"), -1)
    return [(picture, "\n" + turn.text) if i == first else (turn.text,) for i, turn in enumerate(turns)]


def _parts(text: str, turn: int, places: Sequence[_Place], pictures: Mapping[str, Any]) -> Iterator[Any]:
    position = 0
    for place in places:
        if place.turn == turn:
            if place.start > position:
                yield text[position : place.start]
            yield pictures[place.name]
            position = place.end
    if position < len(text):
        yield text[position:]
