"""LLaVA 1.6: tiles, the order of their tokens, where they lie, and the model that merges them."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers.models.llava_next.modeling_llava_next import get_anyres_image_grid_shape, unpad_image

from polylens.contracts import ImageRef, Message, Record
from polylens.data.images import ImageOpener
from polylens.engine.loading import load_checkpoint
from polylens.errors import InputError
from polylens.modeling.preprocessing import BicubicPreprocessor
from polylens.testing import Subject
from polylens.testing.chunks import vision_chunks_change_no_output
from polylens.testing.gradients import text_alone_gives_zero_gradients
from polylens.testing.models import (
    batch_of_one_equals_batch_of_many,
    features_stand_in_for_pixels,
    take_commutes_with_collation,
    weights_are_reached_by_calls,
)
from polylens.testing.slicing import pixels_match_the_geometry
from polylens_llava_remgcl.anyres import Anyres, best_resolution
from polylens_llava_remgcl.family import PRESETS
from polylens_llava_remgcl.model import build
from polylens_llava_remgcl.options import LlavaOptions
from polylens_llava_remgcl.slicing import slicer_for

SIDE, GRID = 56, 4
PINPOINTS = [(56, 112), (112, 56), (112, 112), (168, 56), (56, 168)]
SIZES = [(333, 97), (64, 200), (50, 40), (224, 224), (120, 260), (300, 200), (1, 1), (56, 168), (500, 3)]


def cut(merge: str = "spatial_unpad") -> Anyres:
    return Anyres(SIDE, GRID, tuple(PINPOINTS), merge)


def test_canvases_are_those_of_the_original(original):
    given = json.loads((original.folder / "preproc_anyres_meta.json").read_text(encoding="utf-8"))
    pinpoints = [(width, height) for width, height in given["anyres_grid_pinpoints"]]
    for name, about in given["images"].items():
        size = (about["size"][0], about["size"][1])
        assert best_resolution(size, pinpoints) == tuple(about["anyres_best_resolution"]), name
        tiling = Anyres(SIDE, GRID, tuple(pinpoints), "flat").tiling(size)
        assert (tiling.columns, tiling.rows) == tuple(about["anyres_grid_shape"]), name
        assert tiling.crops == about["anyres_tensor_shape"][0], name


@pytest.mark.parametrize("size", SIZES)
def test_the_order_of_tokens_is_that_of_transformers(size):
    """Its LLaVA-NeXT merges features as the original does; here their numbers are merged."""
    tiling = cut().tiling(size)
    numbers = torch.arange(tiling.crops * GRID**2)
    height, width = size[1], size[0]
    rows, columns = get_anyres_image_grid_shape((height, width), [[h, w] for w, h in PINPOINTS], SIDE)
    tiles = numbers[GRID**2 :].view(rows, columns, GRID, GRID, 1).permute(4, 0, 2, 1, 3).flatten(1, 2).flatten(2, 3)
    kept = unpad_image(tiles, (height, width))[0]
    lines = torch.cat([kept, torch.full((len(kept), 1), len(numbers))], dim=1)
    expected = torch.cat([numbers[: GRID**2], lines.flatten()])
    assert tiling.order().tolist() == expected.tolist()


def test_tokens_lie_where_their_pixels_come_from():
    """300 x 200 on a canvas of 112 x 112: 75 pixels high, bars of 18 pixels above and 19 below."""
    made = cut("flat").slice((300, 200))
    assert (made.grid, len(made.crops)) == ((2, 2), 5)
    assert made.crops[1].window == (0, -18, 56, 38)
    boxes = made.token_boxes
    np.testing.assert_allclose(boxes[0], [0, 0, 75, 50])
    step = 14 * 300 / 112
    np.testing.assert_allclose(boxes[16], [0, -18 * 200 / 75, step, -4 * 200 / 75], rtol=1e-5)
    hull = [*boxes[16:].min(axis=0)[:2], *boxes[16:].max(axis=0)[2:]]
    np.testing.assert_allclose(hull, [0, -18 * 200 / 75, 300, 94 * 200 / 75], rtol=1e-5)


def test_the_end_of_a_line_has_the_box_of_the_line():
    made = cut().slice((300, 200))
    tiling = cut().tiling((300, 200))
    ends = np.flatnonzero(tiling.order() == tiling.crops * GRID**2)
    assert sum(crop.tokens for crop in made.crops) == len(made.token_boxes)
    for end in ends:
        left, top, right, bottom = made.token_boxes[end]
        assert (left, right) == pytest.approx((0, 300))
        assert (top, bottom) == pytest.approx(tuple(made.token_boxes[end - 1][[1, 3]]))


def test_painted_pixels_are_seen_by_the_tokens_above_them():
    made, picture = cut("flat").slice((300, 200)), Image.new("RGB", (300, 200), (9, 9, 9))
    picture.paste((250, 250, 250), (150, 100, 225, 150))
    crops = BicubicPreprocessor().pixels(picture, made)
    for number, box in enumerate(made.token_boxes):
        crop, place = divmod(number, GRID**2)
        row, column = divmod(place, GRID)
        seen = crops[crop][0, row * 14 : row * 14 + 14, column * 14 : column * 14 + 14]
        inside = box[0] >= 150 and box[1] >= 100 and box[2] <= 225 and box[3] <= 150
        outside = box[2] < 140 or box[3] < 90 or box[0] > 235 or box[1] > 160
        assert not inside or seen.min() > 100
        assert not outside or seen.max() < 100


SELDOM = [pytest.param(name, marks=pytest.mark.long) for name in ("spatial", "flat")]


@pytest.fixture(scope="module", params=["spatial_unpad", *SELDOM])
def folder(request, tmp_path_factory):
    """A model of LLaVA 1.6 that polylens wrote."""
    target = tmp_path_factory.mktemp("next")
    config = json.loads((PRESETS / "tiny" / "config.json").read_text(encoding="utf-8"))
    config["vision_config"]["image_size"] = SIDE
    pinpoints = [list(pair) for pair in PINPOINTS]
    config |= {"image_aspect_ratio": "anyres", "image_grid_pinpoints": pinpoints, "mm_patch_merge_type": request.param}
    shutil.copytree(PRESETS / "tiny", target, dirs_exist_ok=True)
    torch.manual_seed(0)
    (target / "config.json").write_text(json.dumps(config))
    model = build(config)
    model.save_pretrained(target)
    return target


CHECKS = (
    batch_of_one_equals_batch_of_many,
    features_stand_in_for_pixels,
    pixels_match_the_geometry,
    take_commutes_with_collation,
    text_alone_gives_zero_gradients,
    vision_chunks_change_no_output,
    weights_are_reached_by_calls,
)


@pytest.fixture(scope="module")
def subject(folder):
    return Subject("llava_remgcl", "llava", str(folder))


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_contract_is_kept(check, subject):
    check(subject)


@torch.no_grad()
@pytest.mark.parametrize("size", [(300, 200), (8, 129), (129, 8)])
def test_the_end_of_a_line_is_on_disk_and_in_the_sequence(folder, tmp_path, size):
    """Also where bars leave no column, or no line, of the tiles."""
    found = load_checkpoint("llava_remgcl", str(folder))
    found.model.save_pretrained(tmp_path)
    named = load_file(tmp_path / "model.safetensors")
    assert ("model.image_newline" in named) == (found.model.config.mm_patch_merge_type == "spatial_unpad")
    picture = tmp_path / "picture.png"
    Image.new("RGB", size, (200, 30, 90)).save(picture)
    record = Record("0", (Message("user", (ImageRef("path", "picture.png"), "What?")),))
    batch = found.collator()([found.preparer(ImageOpener(tmp_path)).example(record)])
    tokens = found.model.eval()(batch, outputs={"connector"}).connector
    assert len(tokens) == int(batch.visual_mask.sum())
    if "model.image_newline" in named:
        tiling = cut().tiling(size)
        ends = torch.from_numpy(tiling.order() == tiling.crops * GRID**2)
        assert (tokens[ends] == named["model.image_newline"]).all()


def test_a_picture_without_tiles_ends_a_line_too():
    """As in the original, where a model of 1.6 is given padded pictures."""
    vision = {"model_type": "clip_vision_model", "image_size": SIDE, "patch_size": 14}
    said = {"model_type": "llava_llama", "mm_vision_tower": "", "vision_config": vision}
    made = slicer_for({**said, "mm_patch_merge_type": "spatial_unpad"}, LlavaOptions()).slice((300, 200))
    assert made.visual_tokens == len(made.token_boxes) == GRID**2 + 1


def test_what_does_not_fit_is_refused():
    vision = {"model_type": "clip_vision_model", "image_size": SIDE, "patch_size": 14}
    said = {
        "model_type": "llava_llama",
        "mm_vision_tower": "",
        "vision_config": vision,
        "image_aspect_ratio": "anyres",
    }
    with pytest.raises(InputError, match=r"/image_grid_pinpoints is None; .* multiples of 56"):
        slicer_for(said, LlavaOptions())
    with pytest.raises(InputError, match=r"/image_grid_pinpoints is \[\[100, 56\]\]"):
        slicer_for({**said, "image_grid_pinpoints": [[100, 56]]}, LlavaOptions())
    with pytest.raises(InputError, match=r"/mm_patch_merge_type is 'maxpool'; it may be flat, spatial"):
        slicer_for({**said, "image_grid_pinpoints": [[56, 56]], "mm_patch_merge_type": "maxpool"}, LlavaOptions())
    with pytest.raises(InputError, match="needs the features 'patch' and whole patches; they are 'cls_patch'"):
        slicer_for({**said, "mm_vision_select_feature": "cls_patch"}, LlavaOptions())
