import numpy as np
import pytest
import torch
from PIL import Image

from polylens.contracts import Crop, SlicedImage
from polylens.modeling.preprocessing import BicubicPreprocessor

WINDOWS = [(0, 0, 40, 30), (10, 5, 25, 30), (-3, -4, 43, 31), (30, 20, 60, 28), (5, -6, 20, 9)]


def picture(kind: str) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    if kind != "colour":
        values[:] = values[..., :1]
    if kind == "one coloured pixel":
        values[-1, -1] = 10, 10, 11
    return Image.fromarray(values)


@pytest.mark.parametrize("kind", ["colour", "gray", "one coloured pixel"])
def test_pixels_are_those_of_pillow_with_black_outside(kind):
    image, size = picture(kind), (40, 30)
    crops = (*(Crop(size, window, 1) for window in WINDOWS), Crop((90, 70), (0, 0, 90, 70), 1))
    found = BicubicPreprocessor().pixels(image, SlicedImage(image.size, crops, None, np.zeros((0, 4), np.float32)))
    for crop, pixels in zip(crops, found, strict=True):
        wanted = np.asarray(image.resize(crop.scaled, Image.Resampling.BICUBIC).crop(crop.window))
        assert pixels.dtype == torch.uint8
        assert pixels.equal(torch.tensor(wanted).permute(2, 0, 1))


def test_a_crop_keeps_no_more_than_itself_alive():
    image = picture("gray")
    crops = (Crop((80, 80), (0, 0, 20, 40), 1), Crop((80, 80), (60, 40, 80, 80), 1))
    for pixels in BicubicPreprocessor().pixels(image, SlicedImage(image.size, crops, None, np.zeros((0, 4)))):
        assert pixels.is_contiguous()
        assert pixels.untyped_storage().nbytes() == 3 * 20 * 40
