"""What is drawn into each picture: every choice follows from the seed and the number of the picture alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import TypeVar

from polylens.data.subtitles.sentences import Sentence
from polylens.data.subtitles.settings import Colours, SubtitleSettings

__all__ = ["Plan", "Planner"]

T = TypeVar("T")

_CHOICES = 4
"""Backgrounds drawn for a picture: the next one is taken where one cannot be opened."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A picture before it is drawn.

    Attributes:
        number: from 1.
        face: number of the font.
        backgrounds: names of pictures; the first that can be opened is taken.
        font_size: of the picture's height.
        centre: of the text, of the picture's width.
        bottom: distance to the lower edge, in heights of the text.
        stroke_width: of the outline, of the font size.
        always_stroke: whether the outline is drawn on dark backgrounds too.
    """

    number: int
    text: str
    face: int
    backgrounds: tuple[str, ...]
    font_size: float
    centre: float
    bottom: float
    colour: tuple[int, int, int]
    stroke_colour: tuple[int, int, int]
    stroke_width: float
    always_stroke: bool
    quality: int


@dataclass(frozen=True, slots=True)
class Planner:
    """Draws plans.

    ``Random.random`` gives the same numbers under every version of Python, which its other methods do not promise, so
    nothing else of it is used.
    """

    sentences: Sequence[Sentence]
    backgrounds: Sequence[str]
    settings: SubtitleSettings
    seed: int

    def plan(self, number: int) -> Plan:
        """The picture of a number; it does not depend on which others are made."""
        draw, chosen = Random(f"{self.seed}/{number}"), self.settings
        sentence = _one(self.sentences, draw)
        return Plan(
            number=number,
            text=sentence.text,
            face=_one(sentence.faces, draw),
            backgrounds=_several(self.backgrounds, draw),
            font_size=_between(chosen.font_size, draw),
            centre=_between(chosen.centre, draw),
            bottom=_between(chosen.bottom, draw),
            colour=_colour(chosen.colours, draw),
            stroke_colour=_colour(chosen.stroke_colours, draw),
            stroke_width=_between(chosen.stroke_width, draw),
            always_stroke=draw.random() < chosen.stroke_chance,
            quality=_whole(chosen.quality[0], chosen.quality[1], draw),
        )

    def text(self, number: int) -> str:
        """The sentence of a picture, which is drawn first."""
        return _one(self.sentences, Random(f"{self.seed}/{number}")).text


def _one(items: Sequence[T], draw: Random) -> T:
    return items[int(draw.random() * len(items))]


def _several(items: Sequence[str], draw: Random) -> tuple[str, ...]:
    """Different items; in place of one that was drawn before comes the next that was not."""
    chosen: list[int] = []
    while len(chosen) < min(_CHOICES, len(items)):
        place = int(draw.random() * len(items))
        while place in chosen:
            place = (place + 1) % len(items)
        chosen.append(place)
    return tuple(items[place] for place in chosen)


def _between(bounds: tuple[float, ...], draw: Random) -> float:
    low, high = bounds
    return low + (high - low) * draw.random()


def _whole(low: int, high: int, draw: Random) -> int:
    return low + int(draw.random() * (high - low + 1))


def _colour(boxes: Sequence[Colours], draw: Random) -> tuple[int, int, int]:
    place = draw.random() * sum(box.weight for box in boxes)
    chosen = boxes[-1]
    for box in boxes:
        place -= box.weight
        if place < 0:
            chosen = box
            break
    red, green, blue = (_whole(low, high, draw) for low, high in zip(chosen.low, chosen.high, strict=True))
    return red, green, blue
