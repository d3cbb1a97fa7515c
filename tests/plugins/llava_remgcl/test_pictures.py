"""Pictures as squares: values of the original's preprocessing, and where their tokens lie."""

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
from polylens_llava_remgcl.options import LlavaOptions
from polylens_llava_remgcl.processing import processing_for
from polylens_llava_remgcl.slicing import slicer_for

SMALL = {"model_type": "clip_vision_model", "image_size": 56, "patch_size": 14}


def config(side: int = 56, **more):
    return {"model_type": "llava", "mm_vision_tower": "", "vision_config": {**SMALL, "image_size": side}, **more}


@pytest.mark.parametrize("ratio", ["square", "pad"])
def test_values_are_those_of_the_original(original, ratio):
    given = load_file(original.folder / "preproc_56.safetensors")
    named = json.loads((original.folder / "preproc_meta.json").read_text(encoding="utf-8"))["images"]
    said = config(image_aspect_ratio=ratio)
    processing = processing_for(said, LlavaOptions())
    preprocessor, slicer = SquarePreprocessor(processing), slicer_for(said, LlavaOptions())
    assert processing.background == (122, 116, 104)
    for name, about in named.items():
        image = Image.open(original.folder / "images" / about["file"]).convert("RGB")
        (pixels,) = preprocessor.pixels(image, slicer.slice(image.size))
        values = normalise(pixels, processing.mean, processing.std, torch.float32)
        torch.testing.assert_close(values, given[f"{name}.{ratio}"], rtol=1e-6, atol=1e-6, msg=name)


@pytest.mark.parametrize(("side", "tokens"), [(224, 256), (336, 576)])
def test_a_padded_picture_has_tokens_above_and_below(side, tokens):
    """600 x 400 in a square of 600: bars of 100 pixels."""
    boxes = slicer_for(config(side, image_aspect_ratio="pad"), LlavaOptions()).slice((600, 400)).token_boxes
    assert boxes.shape == (tokens, 4)
    np.testing.assert_allclose([*boxes.min(axis=0)[:2], *boxes.max(axis=0)[2:]], [0, -100, 600, 500])
    step = 600 / tokens**0.5
    np.testing.assert_allclose(boxes[0], [0, -100, step, step - 100], rtol=1e-5)
    np.testing.assert_allclose(boxes[1], [step, -100, 2 * step, step - 100], rtol=1e-5)


def test_a_picture_of_odd_size_is_pasted_at_whole_pixels():
    """333 x 97: 118 rows above, also where the original's half is one of 118."""
    boxes = slicer_for(config(224, image_aspect_ratio="pad"), LlavaOptions()).slice((333, 97)).token_boxes
    assert boxes[0].tolist() == pytest.approx([0, -118, 333 / 16, 333 / 16 - 118], rel=1e-5)


def test_the_middle_of_a_wide_picture_is_cut_out():
    boxes = slicer_for(config(224), LlavaOptions()).slice((448, 224)).token_boxes
    assert (boxes[0].tolist(), boxes[-1].tolist()) == ([112, 0, 126, 14], [322, 210, 336, 224])


def test_the_ratio_follows_from_the_option_then_the_file_then_the_layout():
    assert not processing_for(config(), LlavaOptions()).pad
    assert processing_for(config(image_aspect_ratio="pad"), LlavaOptions()).pad
    assert not processing_for(config(image_aspect_ratio="pad"), LlavaOptions(image_aspect_ratio="square")).pad
    parts = {"model_type": "llava", "text_config": {}, "vision_config": SMALL}
    assert processing_for(parts, LlavaOptions()).pad
    with pytest.raises(InputError, match=r"/image_aspect_ratio is 'tiles'; it may be square, pad"):
        processing_for(config(image_aspect_ratio="tiles"), LlavaOptions())


def test_a_published_tower_needs_no_sizes():
    said = {"model_type": "llava_llama", "mm_vision_tower": "openai/clip-vit-large-patch14-336"}
    assert slicer_for(said, LlavaOptions()).slice((640, 480)).visual_tokens == 576
    with pytest.raises(
        InputError, match=r"/mm_vision_tower is 'my/tower', which was not found, .* option vision_tower"
    ):
        slicer_for({**said, "mm_vision_tower": "my/tower"}, LlavaOptions())
