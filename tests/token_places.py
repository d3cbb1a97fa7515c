"""The patches of a tower, told without ``token_boxes``: rectangles are painted and looked for in them."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from polylens.testing.places import changed_pixels, disagreements, rectangle_in

SIDES = st.one_of(st.integers(8, 90), st.integers(90, 900), st.sampled_from([223, 224, 225, 335, 336, 337, 448, 449]))
SIZES = st.tuples(SIDES, SIDES).filter(lambda size: max(size) <= 40 * min(size))
SEEDS = st.integers(0, 2**32 - 1)


def patches(unit, tokens=None, repeated=1):
    """``places`` for ``disagreements``: squares of ``unit`` pixels of the crop, row by row from its upper left corner.

    Args:
        tokens: of a crop whose tokens all stand for the whole of it.
        repeated: tokens of each patch.
    """

    def places(crop, sliced, boxes):
        columns, rows = (side // unit for side in crop.size)
        if tokens is not None:
            assert crop.tokens == tokens == len(boxes)
            return np.array([[0, 0, columns * unit, rows * unit]] * tokens)
        assert crop.tokens == repeated * columns * rows == len(boxes)
        left, top = np.meshgrid(np.arange(columns) * unit, np.arange(rows) * unit)
        cells = np.stack([left, top, left + unit, top + unit], axis=-1).reshape(-1, 4)
        return np.repeat(cells, repeated, axis=0)

    return places


def check_places(slicer, preprocessor, size, seed, places, near=1.0):
    """The tokens whose patches change are those whose boxes meet what is painted, to ``near`` pixels of a crop."""
    sliced = slicer.slice(size)
    rectangle = rectangle_in(sliced, np.random.default_rng(seed))
    changed = changed_pixels(preprocessor, sliced, rectangle)
    assert list(disagreements(sliced, rectangle, changed, places, near)) == []
