"""Slices of MiniCPM-V: tokens show what lies in their boxes, pixel by pixel."""

from hypothesis import given, settings
from token_places import SEEDS, SIZES, check_places, patches

from polylens.modeling.preprocessing import BicubicPreprocessor
from polylens_minicpmv.slicing import MergedSlicer, MiniCPMVSlicer


@settings(max_examples=25, deadline=None)
@given(SIZES, SEEDS)
def test_resampled_tokens_stand_for_their_slices(size, seed):
    check_places(MiniCPMVSlicer(112, 14, 9, tokens=3), BicubicPreprocessor(), size, seed, patches(14, tokens=3))


@settings(max_examples=20, deadline=None)
@given(SIZES, SEEDS)
def test_resampled_tokens_of_pictures_that_are_not_cut(size, seed):
    slicer = MiniCPMVSlicer(112, 14, 9, tokens=3, slice_mode=False)
    check_places(slicer, BicubicPreprocessor(), size, seed, patches(1, tokens=3))


@settings(max_examples=25, deadline=None)
@given(SIZES, SEEDS)
def test_merged_tokens_have_places(size, seed):
    check_places(MergedSlicer(112, 28, 9), BicubicPreprocessor(), size, seed, patches(28))
