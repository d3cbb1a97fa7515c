"""Squares out of pictures: tokens show what lies in their boxes, pixel by pixel, however the square is made."""

import numpy as np
import pytest
from hypothesis import given, settings
from token_places import SEEDS, SIZES, check_places, patches

from polylens.modeling.processing import Processing
from polylens.modeling.square_pixels import SquarePreprocessor
from polylens.modeling.squares import SquareSlicer

MEAN = (0.48, 0.46, 0.41)
WAYS = {
    "padded": Processing(112, None, MEAN, MEAN, True),
    "padded, then cut": Processing(112, 128, MEAN, MEAN, True),
    "cut out of the middle": Processing(112, 112, MEAN, MEAN, False),
    "cut out of more": Processing(96, 128, MEAN, MEAN, False),
    "stretched": Processing(112, None, MEAN, MEAN, False),
    "stretched, with a strip that no patch sees": Processing(123, None, MEAN, MEAN, False),
}


@pytest.mark.parametrize("way", WAYS)
@settings(max_examples=25, deadline=None)
@given(SIZES, SEEDS)
def test_tokens_of_squares(way, size, seed):
    processing = WAYS[way]
    slicer = SquareSlicer(processing, 14, class_token=False, strategy="full")
    near = 1.5 if processing.pad else 1.0  # the corner of the picture is rounded to whole pixels before it is resized
    check_places(slicer, SquarePreprocessor(processing), size, seed, patches(14), near)


def test_a_class_token_and_queries_stand_for_all_that_is_seen():
    processing = WAYS["stretched, with a strip that no patch sees"]
    for options in ({"class_token": True, "strategy": "full"}, {"class_token": False, "queries": 5}):
        boxes = SquareSlicer(processing, 14, **options).slice((246, 123)).token_boxes
        np.testing.assert_allclose(boxes[0], [0, 0, 224, 112])


def test_two_towers_give_each_patch_two_tokens():
    slicer = SquareSlicer(WAYS["padded"], 14, class_token=True, towers=2)
    check_places(slicer, SquarePreprocessor(WAYS["padded"]), (300, 170), 1, patches(14, repeated=2), 1.5)
