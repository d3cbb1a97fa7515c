"""Pictures as squares: bytes of the original's image processors, and where their tokens lie."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from polylens.errors import InputError
from polylens.modeling.preprocessing import normalise
from polylens.modeling.square_pixels import SquarePreprocessor
from polylens.modeling.squares import SquareSlicer
from polylens_tinyllava.options import TinyLlavaOptions
from polylens_tinyllava.processing import processing_for
from polylens_tinyllava.slicing import slicer_for

TOWERS = {
    "clip336": {"model_type": "clip_vision_model", "image_size": 336, "patch_size": 14},
    "siglip384": {"model_type": "siglip_vision_model", "image_size": 384, "patch_size": 14},
    "dinov2_224": {"model_type": "dinov2", "image_size": 518, "patch_size": 14},
}
MISREAD = "tiny_5x3"
"""Three pixels high: transformers 4 took the rows for channels."""


@pytest.fixture(scope="module")
def pictures(golden):
    folder = golden / "tinyllava" / "images"
    return folder, json.loads((folder / "pixels.json").read_text()), load_file(folder / "pixels.safetensors")


@pytest.mark.parametrize("published", [False, True], ids=["by the tower", "by its processor's file"])
@pytest.mark.parametrize("ratio", ["square", "pad"])
@pytest.mark.parametrize("tower", TOWERS)
def test_bytes_are_those_of_the_original(pictures, tower, ratio, published):
    folder, sums, arrays = pictures
    config = {"vision_config": TOWERS[tower], "image_aspect_ratio": ratio}
    if published:
        file = folder / "processors" / tower / "preprocessor_config.json"
        config["image_processor"] = json.loads(file.read_text())
    processing = processing_for(config, TinyLlavaOptions())
    preprocessor, slicer = SquarePreprocessor(processing), slicer_for(config, TinyLlavaOptions())
    for path in sorted((folder / "in").glob("*.png")):
        name = f"{tower}.{ratio}.{path.stem}"
        if path.stem == MISREAD and ratio == "square":
            continue
        image = Image.open(path).convert("RGB")
        (pixels,) = preprocessor.pixels(image, slicer.slice(image.size))
        values = normalise(pixels, processing.mean, processing.std, torch.float32).double()
        assert values.sum().item() == pytest.approx(sums[name]["sum"], abs=0.02), name
        assert values.abs().sum().item() == pytest.approx(sums[name]["abs"], abs=0.02), name
        if f"{name}.uint8" in arrays:
            assert torch.equal(pixels, arrays[f"{name}.uint8"]), name


def test_the_background_is_the_truncated_mean():
    clip = processing_for({"vision_config": TOWERS["clip336"]}, TinyLlavaOptions("phi", "pad"))
    assert clip.background == (122, 116, 104)


def slicer(tower: str, **config) -> SquareSlicer:
    return slicer_for({"vision_config": TOWERS[tower], **config}, TinyLlavaOptions())


@pytest.mark.parametrize(
    ("tower", "config", "tokens"),
    [
        ("clip336", {"vision_feature_select_strategy": "patch"}, 576),
        ("clip336", {"vision_feature_select_strategy": "cls_patch"}, 577),
        ("siglip384", {"vision_feature_select_strategy": "patch"}, 728),
        ("siglip384", {"vision_feature_select_strategy": "cls_patch"}, 729),
        ("dinov2_224", {}, 256),
        ("clip336", {"connector_type": "resampler", "num_queries": 5}, 5),
        ("siglip384", {"connector_type": "qformer", "num_queries": None}, 128),
        ("clip336", {"connector_type": "mof_mlp", "vision_config2": {"model_type": "dinov2"}}, 1152),
    ],
)
def test_visual_tokens_of_a_picture(tower, config, tokens):
    assert slicer(tower, **config).slice((640, 360)).visual_tokens == tokens


def test_the_dropped_patch_of_siglip_is_the_one_in_the_corner():
    """Published checkpoints were trained without the first patch, because the original takes it for a class token."""
    whole = slicer("siglip384", vision_feature_select_strategy="cls_patch").slice((384, 384)).token_boxes
    boxes = slicer("siglip384").slice((384, 384)).token_boxes
    np.testing.assert_array_equal(boxes, whole[1:])
    np.testing.assert_array_equal(whole[0], [0, 0, 14, 14])
    np.testing.assert_array_equal(whole[-1], [364, 364, 378, 378])


def test_a_wide_picture_loses_its_sides_to_clip_and_none_with_bars():
    cut = slicer("clip336").slice((672, 336)).token_boxes
    assert (cut[:, 0].min(), cut[:, 2].max()) == (168, 504)
    boxes = slicer("clip336", image_aspect_ratio="pad").slice((672, 336)).token_boxes
    assert (boxes.min(axis=0)[:2].tolist(), boxes.max(axis=0)[2:].tolist()) == ([0, -168], [672, 504])


def test_a_long_strip_is_not_resized_as_a_whole():
    """A picture of 20000 x 2 would be 3 360 000 pixels wide."""
    processing = processing_for({"vision_config": TOWERS["clip336"]}, TinyLlavaOptions())
    strip = Image.new("RGB", (20000, 2), (9, 99, 199))
    strip.paste((0, 0, 0), (0, 0, 9990, 2))
    (pixels,) = SquarePreprocessor(processing).pixels(strip, slicer("clip336").slice(strip.size))
    assert pixels.shape == (3, 336, 336)
    assert pixels[:, 5, 300].tolist() == [9, 99, 199]


def test_what_the_original_cannot_do_is_refused():
    with pytest.raises(InputError, match=r"/image_aspect_ratio is 'anyres'; it may be square, pad"):
        slicer("clip336", image_aspect_ratio="anyres")
    with pytest.raises(InputError, match="strategy is 'cls'"):
        slicer("clip336", vision_feature_select_strategy="cls")
    with pytest.raises(InputError, match="0 x 5 pixels is empty"):
        slicer("clip336").slice((0, 5))
