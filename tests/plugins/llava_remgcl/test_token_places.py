"""LLaVA's pictures: tokens show what lies in their boxes, pixel by pixel, in squares and in tiles of all merges."""

import numpy as np
import pytest
from hypothesis import given, settings
from token_places import SEEDS, SIZES, check_places, patches

from polylens.modeling.preprocessing import BicubicPreprocessor
from polylens.modeling.square_pixels import SquarePreprocessor
from polylens.testing.places import changed_pixels, rectangle_in
from polylens_llava_remgcl.anyres import Anyres
from polylens_llava_remgcl.options import LlavaOptions
from polylens_llava_remgcl.processing import processing_for
from polylens_llava_remgcl.slicing import slicer_for

SIDE, GRID = 112, 8
CONFIG = {
    "mm_vision_tower": "openai/clip",
    "vision_config": {"model_type": "clip_vision_model", "image_size": SIDE, "patch_size": 14},
}
CANVASES = ((112, 224), (224, 112), (224, 224), (336, 112), (112, 336))


@pytest.mark.parametrize("ratio", ["pad", "square"])
@settings(max_examples=20, deadline=None)
@given(SIZES, SEEDS)
def test_tokens_of_squares(ratio, size, seed):
    options = LlavaOptions(image_aspect_ratio=ratio)
    slicer = slicer_for(CONFIG, options)
    check_places(slicer, SquarePreprocessor(processing_for(CONFIG, options)), size, seed, patches(14), 1.5)


@pytest.mark.parametrize("merge", ["flat", "spatial", "spatial_unpad"])
@settings(max_examples=20, deadline=None)
@given(SIZES, SEEDS)
def test_tokens_of_tiles(merge, size, seed):
    """Patches by the order of the tokens, which transformers has too (``test_anyres.py``)."""
    cut = Anyres(SIDE, GRID, CANVASES, merge)
    sliced, order = cut.slice(size), cut.tiling(size).order()
    rectangle = rectangle_in(sliced, np.random.default_rng(seed))
    changed = changed_pixels(BicubicPreprocessor(), sliced, rectangle)
    cells = [pixels.reshape(GRID, 14, GRID, 14).any(axis=(1, 3)).reshape(-1) for pixels in changed]
    touched = np.append(np.concatenate(cells), False)[order]
    crops = np.minimum(order // GRID**2, len(sliced.crops))
    coarse = np.array([np.array(size) / crop.scaled for crop in sliced.crops] + [(1, 1)])[crops]
    boxes, reach = sliced.token_boxes, np.maximum(coarse, 0.25) * 1.5
    low, high = np.array(rectangle[:2]), np.array(rectangle[2:])
    surely, perhaps = (
        ((boxes[:, :2] < high + by) & (boxes[:, 2:] > low - by) & (low - by < high + by)).all(axis=1)
        for by in (-reach, reach)
    )
    ends = crops == len(sliced.crops)
    assert not (surely & ~touched & ~ends).any()
    assert not (touched & ~perhaps).any()
    assert not ends.any() or merge == "spatial_unpad"
