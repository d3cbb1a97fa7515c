"""Which visual tokens show a box."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

import polylens
from polylens.contracts import Crop, SlicedImage
from polylens.modeling.coverage import TokenCover

SIDE = 8


def patches(width: int, height: int, padding: int = 0) -> SlicedImage:
    """A picture of 8 x 8 patches, with bars of ``padding`` pixels above and below."""
    x, y = np.linspace(0, width, SIDE + 1), np.linspace(-padding, height + padding, SIDE + 1)
    boxes = [[x[j], y[i], x[j + 1], y[i + 1]] for i in range(SIDE) for j in range(SIDE)]
    crop = Crop((SIDE, SIDE), (0, 0, SIDE, SIDE), SIDE * SIDE)
    return SlicedImage((width, height), (crop,), None, np.array(boxes, np.float32))


@given(st.integers(0, 300), st.integers(0, 200), st.integers(1, 300), st.integers(1, 200), st.floats(0.01, 1))
def test_is_what_counting_pixels_gives(left, top, width, height, minimum):
    """Patches of 40 x 25 pixels, counted one by one."""
    box = np.array([[left, top, min(left + width, 320), min(top + height, 200)]], dtype=float)
    pixels = np.zeros((200, 320), bool)
    pixels[top : int(box[0, 3]), left : int(box[0, 2])] = True
    covered = pixels.reshape(SIDE, 25, SIDE, 40).sum(axis=(1, 3)).flatten()
    wanted = np.flatnonzero(covered >= minimum * min(1000, pixels.sum()))
    if pixels.any():
        assert TokenCover(minimum).tokens(patches(320, 200), box)[0].tolist() == wanted.tolist()


def test_a_line_smaller_than_a_token_has_one():
    found = TokenCover().tokens(patches(320, 200), np.array([[41.0, 26, 43, 28]]))
    assert found[0].tolist() == [SIDE + 1]


def test_tokens_of_padding_are_not_on_the_picture():
    sliced = patches(160, 80, padding=40)
    rows = TokenCover().on_picture(sliced).reshape(SIDE, SIDE).all(axis=1).tolist()
    assert rows == [False, False, True, True, True, True, False, False]
    assert TokenCover().tokens(sliced, np.array([[0.0, 0, 160, 80]]))[0].tolist() == list(range(16, 48))


def test_the_finest_tokens_of_several_sizes_count():
    """Of the slices of MiniCPM-V, not of its overview; a line over two slices has the tokens of both."""
    vlm = polylens.load("minicpmv", "tiny")
    sliced = vlm.checkpoint.slicer.slice((448, 224))
    boxes = sliced.token_boxes
    overview = [i for i, box in enumerate(boxes) if box[2] - box[0] == 448]
    assert overview
    within, across = TokenCover().tokens(sliced, np.array([[5.0, 5, 60, 20], [0, 100, 448, 120]]))
    assert set(within) & set(overview) == set()
    assert {tuple(boxes[i]) for i in within} == {tuple(boxes[within[0]])}
    assert len({tuple(boxes[i]) for i in across}) > 1
