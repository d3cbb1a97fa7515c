"""The example's slicer: tokens show what lies in their boxes, pixel by pixel."""

from hypothesis import given, settings
from token_places import SEEDS, SIZES, check_places, patches

from polylens.modeling.preprocessing import BicubicPreprocessor


@settings(max_examples=25, deadline=None)
@given(SIZES, SEEDS)
def test_tokens_of_pictures_in_their_own_shape(size, seed):
    from polylens_qwen2_5_vl.slicing import NativeResolutionSlicer

    slicer = NativeResolutionSlicer(56 * 56, 28 * 28 * 60)
    check_places(slicer, BicubicPreprocessor(), size, seed, patches(28))
