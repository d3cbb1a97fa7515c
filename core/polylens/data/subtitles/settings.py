"""How subtitles look: the distributions that every picture is drawn from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from polylens.config import schemas
from polylens.config.options import build_options
from polylens.errors import InputError

__all__ = ["Colours", "SubtitleSettings", "subtitle_settings"]


@dataclass(frozen=True, slots=True)
class Colours:
    """A box in RGB that colours are drawn from, each channel by itself.

    Args:
        low, high: least and greatest value of the channels, 0 to 255.
        weight: how often, beside the other boxes.
    """

    low: tuple[int, ...]
    high: tuple[int, ...]
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class SubtitleSettings:
    """What is drawn; a pair of numbers is a range, drawn from uniformly. Schema: ``subtitles``.

    Args:
        size: width and height of the pictures, in pixels.
        background: ``cover`` cuts off what does not fit, ``stretch`` ignores the aspect ratio.
        fonts: font files, folders of them, or family names; by default every font of the system. Of these, a picture
            takes one that has all characters of its sentence.
        font_size: of the picture's height.
        least_font_size: to which a sentence is made smaller that would be wider than the picture.
        margin: kept free at both sides, of the picture's width.
        centre: of the text, of the picture's width.
        bottom: distance between the text and the lower edge, in heights of the text.
        colours: of the text.
        stroke_colours: of its outline.
        stroke_width: of the outline, of the font size; at least one pixel.
        bright: text on a background whose brightest pixel (mean of its channels) is above this always has an outline.
        stroke_chance: probability of an outline elsewhere.
        image_format: ``jpeg`` or ``png``.
        quality: of JPEG.
    """

    size: tuple[int, int] = (640, 360)
    background: Literal["cover", "stretch"] = "cover"
    fonts: tuple[str, ...] = ()
    font_size: tuple[float, ...] = (0.07, 0.1)
    least_font_size: float = 0.05
    margin: float = 0.02
    centre: tuple[float, ...] = (0.5, 0.5)
    bottom: tuple[float, ...] = (1.0, 2.0)
    colours: tuple[Colours, ...] = (Colours((250, 250, 250), (255, 255, 255)),)
    stroke_colours: tuple[Colours, ...] = (Colours((0, 0, 0), (0, 0, 0)),)
    stroke_width: tuple[float, ...] = (0.02, 0.06)
    bright: float = 150
    stroke_chance: float = 0.25
    image_format: Literal["jpeg", "png"] = "jpeg"
    quality: tuple[int, ...] = (75, 90)

    def __post_init__(self) -> None:
        """Raises ``InputError`` for a range that is upside down."""
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in ("colours", "stroke_colours"):
                for number, box in enumerate(value):
                    _check_ranges(f"/{field.name}/{number}", zip(box.low, box.high, strict=True))
            elif field.name not in ("size", "fonts") and isinstance(value, tuple):
                _check_ranges(f"/{field.name}", [value])

    @property
    def least_pixels(self) -> int:
        """The smallest font size in pixels."""
        return max(1, round(min(self.least_font_size, self.font_size[0]) * self.size[1]))

    @property
    def room(self) -> float:
        """Pixels that a line of text may be wide, its outline included."""
        return self.size[0] * (1 - 2 * self.margin)


def subtitle_settings(given: Mapping[str, Any], where: str) -> SubtitleSettings:
    """Settings out of a mapping; what it leaves out has the default.

    Raises:
        InputError: with all that is wrong, under ``where``.
    """
    schemas.check("subtitles", dict(given), where)
    try:
        return build_options(SubtitleSettings, given, where)
    except InputError as error:
        raise InputError(f"{where}: {error}" if str(error).startswith("/") else str(error)) from None


def _check_ranges(pointer: str, ranges: Any) -> None:
    for low, high in ranges:
        if low > high:
            raise InputError(f"{pointer}: the range goes from {low:g} to {high:g}; write the smaller number first")
