"""Draws a subtitle into a picture."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from polylens.data.subtitles.fonts import open_face
from polylens.data.subtitles.plans import Plan
from polylens.data.subtitles.settings import SubtitleSettings
from polylens.errors import InputError

__all__ = ["brightest", "draw_subtitle", "encoded", "fitted_background"]

Box = tuple[int, int, int, int]


def fitted_background(image: Image.Image, settings: SubtitleSettings) -> Image.Image:
    """An RGB picture at the size of the settings: cut to it from its middle, or stretched."""
    width, height = settings.size
    box = None
    if settings.background == "cover":
        scale = min(image.width / width, image.height / height)
        left, top = (image.width - scale * width) / 2, (image.height - scale * height) / 2
        box = (left, top, left + scale * width, top + scale * height)
    return image.resize((width, height), Image.Resampling.BICUBIC, box=box, reducing_gap=2.0)


def draw_subtitle(
    background: Image.Image, plan: Plan, face: tuple[Path, int], settings: SubtitleSettings
) -> Image.Image:
    """The background with the text of a plan.

    Args:
        background: RGB, at the size of the settings; it is left as it is.
        face: file and index of the font.

    Raises:
        InputError: the text is wider than the picture at its least size.
    """
    pixels, stroke, box = _fit(plan, face, settings)
    left, top = _place(plan, box, settings)
    picture = background.copy()
    under = (left, top, left + box[2] - box[0], top + box[3] - box[1])
    if not plan.always_stroke and brightest(background, under) <= settings.bright:
        stroke = 0
    ImageDraw.Draw(picture).text(
        (left - box[0], top - box[1]),
        plan.text,
        plan.colour,
        open_face(*face, pixels),
        stroke_width=stroke,
        stroke_fill=plan.stroke_colour,
    )
    return picture


def brightest(image: Image.Image, box: Box) -> int:
    """The brightest pixel of a part of an RGB picture, as the mean of its channels, rounded down."""
    return int(np.asarray(image.crop(box)).sum(axis=-1, dtype=np.uint16).max()) // 3


def encoded(image: Image.Image, plan: Plan, settings: SubtitleSettings) -> bytes:
    """The picture as the bytes of a file."""
    buffer = io.BytesIO()
    if settings.image_format == "jpeg":
        image.save(buffer, "JPEG", quality=plan.quality)
    else:
        image.save(buffer, "PNG", compress_level=3)
    return buffer.getvalue()


def _fit(plan: Plan, face: tuple[Path, int], settings: SubtitleSettings) -> tuple[int, float, Box]:
    """Font size and outline in pixels, and the box of the text about its origin, none wider than the picture."""
    pixels = max(settings.least_pixels, round(plan.font_size * settings.size[1]))
    while True:
        stroke = max(1.0, plan.stroke_width * pixels)
        box = open_face(*face, pixels).getbbox(plan.text, stroke_width=stroke)
        left, top, right, bottom = (int(side) for side in (box[0], box[1], box[2] + 0.999, box[3] + 0.999))
        width = right - left
        if width <= settings.room:
            return pixels, stroke, (left, top, right, bottom)
        if pixels <= settings.least_pixels:
            raise InputError(f"picture {plan.number}: {plan.text!r} is {width} pixels wide, too long for its picture")
        pixels = max(settings.least_pixels, min(pixels - 1, int(pixels * settings.room / width)))


def _place(plan: Plan, box: Box, settings: SubtitleSettings) -> tuple[int, int]:
    """The upper left corner of the text, so that all of it lies in the picture."""
    width, height = box[2] - box[0], box[3] - box[1]
    edge = int(settings.size[0] * settings.margin)
    left = int(plan.centre * settings.size[0] - width / 2)
    top = int(settings.size[1] - height * (1 + plan.bottom))
    return max(edge, min(left, settings.size[0] - edge - width)), max(0, min(top, settings.size[1] - height))
