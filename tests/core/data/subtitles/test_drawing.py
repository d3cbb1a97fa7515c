from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from polylens.data.subtitles.drawing import brightest, draw_subtitle, encoded, fitted_background
from polylens.data.subtitles.plans import Plan
from polylens.data.subtitles.settings import SubtitleSettings
from polylens.errors import InputError

SETTINGS = SubtitleSettings(size=(320, 180), stroke_width=(0.1, 0.1))
PLAN = Plan(1, "今天", 0, ("x",), 0.1, 0.5, 1.0, (255, 255, 255), (0, 0, 0), 0.1, False, 80)
DARK = Image.new("RGB", (320, 180), (60, 60, 60))


def changed(picture: Image.Image, background: Image.Image = DARK) -> tuple[np.ndarray, tuple[int, int, int, int]]:
    """Pixels that are not the background's, and their box."""
    mask = (np.asarray(picture) != np.asarray(background)).any(axis=-1)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return mask, (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)


def test_where_the_text_stands(font):
    picture = draw_subtitle(DARK, PLAN, (font, 0), SETTINGS)
    _, (left, top, right, bottom) = changed(picture)
    assert abs((left + right) / 2 - 160) <= 2
    height = bottom - top
    assert abs((180 - bottom) / height - 1.0) < 0.35, "one height above the edge"
    assert np.asarray(DARK).max() == 60, "the background is left as it is"
    _, moved = changed(draw_subtitle(DARK, replace(PLAN, centre=0.0, bottom=50.0), (font, 0), SETTINGS))
    assert moved[0] >= int(320 * SETTINGS.margin)
    assert moved[1] >= 0


def test_an_outline_over_what_is_bright_and_elsewhere_by_chance(font):
    def black(background, plan):
        return (np.asarray(draw_subtitle(background, plan, (font, 0), SETTINGS)) == 0).all(axis=-1).sum()

    bright = DARK.copy()
    bright.putpixel((160, 150), (255, 200, 0))  # a mean of 151
    assert black(DARK, PLAN) == 0
    assert black(DARK, replace(PLAN, always_stroke=True)) > 0
    assert black(bright, PLAN) > 0
    bright.putpixel((160, 150), (255, 197, 0))  # a mean of 150
    assert black(bright, PLAN) == 0


def test_the_brightest_pixel_is_that_of_a_plain_loop():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8))
    box = (3, 4, 25, 17)
    slow = max(sum(image.getpixel((x, y))) // 3 for x in range(3, 25) for y in range(4, 17))  # type: ignore[arg-type]
    assert brightest(image, box) == slow


def test_a_wide_sentence_is_made_smaller_until_it_fits(font):
    long = replace(PLAN, text="今天" * 10, font_size=0.3, always_stroke=True)
    _, (left, _, right, _) = changed(draw_subtitle(DARK, long, (font, 0), SETTINGS))
    assert right - left <= SETTINGS.room
    assert right - left > 0.8 * SETTINGS.room
    with pytest.raises(InputError, match=r"picture 1: .* too long for its picture"):
        draw_subtitle(DARK, replace(PLAN, text="今天" * 40), (font, 0), SETTINGS)


@pytest.mark.parametrize("size", [(640, 180), (100, 400), (1, 1), (320, 180)])
def test_backgrounds_get_the_size_of_the_pictures(size):
    image = Image.new("RGB", size, (9, 8, 7))
    for background in ("cover", "stretch"):
        fitted = fitted_background(image, replace(SETTINGS, background=background))
        assert fitted.size == (320, 180)
        assert fitted.getpixel((0, 0)) == (9, 8, 7)


def test_cover_cuts_and_stretch_does_not():
    image = Image.new("RGB", (960, 180), (255, 0, 0))
    image.paste((0, 0, 255), (320, 0, 640, 180))
    blue = np.asarray(fitted_background(image, SETTINGS))[..., 2]
    assert blue.min() == 255
    blue = np.asarray(fitted_background(image, replace(SETTINGS, background="stretch")))[..., 2]
    assert abs((blue > 127).mean() - 1 / 3) < 0.02


@pytest.mark.parametrize("image_format", ["jpeg", "png"])
def test_formats(image_format):
    data = encoded(DARK, PLAN, replace(SETTINGS, image_format=image_format))
    assert Image.open(io.BytesIO(data)).format == image_format.upper()
