"""The tower of versions 2.5 and 2.6, and what 2.5 sees of padding."""

import dataclasses

import pytest
import torch
from torch.nn import functional as F

from polylens.engine.loading import load_checkpoint
from polylens_minicpmv.models.minicpmv25 import MiniCPMV25
from polylens_minicpmv.vision.navit import buckets, grid_positions
from polylens_minicpmv.vision.patches import PatchCrop

CLOSE = {"rtol": 1e-11, "atol": 1e-11}
SIZES = [(112, 112), (28, 140), (14, 14), (42, 70)]


def crop(height, width, seed=0):
    return torch.randn(3, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def plain_vit(tower, strip, positions):
    """The same tower for one row of patches [3, 14, 14 * L], written as in any textbook."""
    states = (
        F.conv2d(strip[None], *tower.embeddings.patch_embedding.parameters(), stride=14).flatten(2).transpose(1, 2)
    )
    states = states + tower.embeddings.position_embedding.weight[positions]
    for layer in tower.encoder.layers:
        x, attn = layer.layer_norm1(states), layer.self_attn
        q, k, v = (p(x).view(1, -1, 4, 16).transpose(1, 2) for p in (attn.q_proj, attn.k_proj, attn.v_proj))
        mixed = (q @ k.transpose(-1, -2) / 4).softmax(-1) @ v
        states = states + attn.out_proj(mixed.transpose(1, 2).reshape(1, -1, 64))
        states = states + layer.mlp.fc2(F.gelu(layer.mlp.fc1(layer.layer_norm2(states)), approximate="tanh"))
    return tower.post_layernorm(states)[0]


def strip_of(pixels, length):
    rows, columns = pixels.shape[1] // 14, pixels.shape[2] // 14
    flat = pixels.view(3, rows, 14, columns, 14).permute(0, 2, 1, 3, 4).reshape(3, 14, -1)
    return F.pad(flat, (0, 14 * (length - rows * columns)))


def test_ragged_crops_of_2_6_are_what_a_plain_vit_makes_of_each(tiny26):
    tower = tiny26.model().vpm
    crops = [crop(*size, seed=seed) for seed, size in enumerate(SIZES)]
    lengths = [c.shape[1] * c.shape[2] // 196 for c in crops]
    with torch.no_grad():
        states = tower([PatchCrop(*pair) for pair in zip(crops, lengths, strict=True)])
        for row, pixels, length in zip(states, crops, lengths, strict=True):
            positions = grid_positions((pixels.shape[1] // 14, pixels.shape[2] // 14), 8)
            torch.testing.assert_close(row[:length], plain_vit(tower, strip_of(pixels, length), positions), **CLOSE)


def test_a_padded_crop_of_2_5_attends_to_blank_patches_along_a_line(tiny25):
    tower = tiny25.model().vpm
    crops = [crop(*size, seed=seed) for seed, size in enumerate(SIZES)]
    lengths = [64, 20, 3, 40]
    with torch.no_grad():
        states = tower([PatchCrop(*pair) for pair in zip(crops, lengths, strict=True)])
        for row, pixels, length in zip(states, crops, lengths, strict=True):
            expected = plain_vit(tower, strip_of(pixels, length), torch.arange(length) * 8 // length)
            torch.testing.assert_close(row[:length], expected, **CLOSE)


def features(model, batch):
    with torch.no_grad():
        return model(batch, outputs={"vision"}).vision


def two_pictures(kit):
    """A wide and a square picture in one example: crops of different lengths."""
    wide, square = kit.example("", kit.picture(150, 40)), kit.example("", kit.picture(112, 112, seed=1))
    joined = torch.cat([wide.input_ids, square.input_ids])
    return wide, square, dataclasses.replace(
        wide,
        input_ids=joined,
        labels=torch.full_like(joined, -100),
        visual_mask=torch.cat([wide.visual_mask, square.visual_mask]),
        pixels=[*wide.pixels, *square.pixels],
        crop_tokens=[*wide.crop_tokens, *square.crop_tokens],
        images=(*wide.images, *square.images),
    )  # fmt: skip


def test_crops_of_an_example_change_each_other_in_2_5_and_examples_do_not(tiny25):
    wide, square, both = two_pictures(tiny25)
    model = tiny25.model()
    apart = features(model, tiny25.batch([wide, square]))
    together = features(model, tiny25.batch([both]))
    assert [len(crop) for crop in apart] == [60, 64]
    assert (apart[0] - together[0]).abs().max() > 0.01
    torch.testing.assert_close(apart[1], together[1], **CLOSE)
    beside = features(model, tiny25.batch([both, tiny25.example("", tiny25.picture(700, 60))]))
    torch.testing.assert_close(beside[:2], together, **CLOSE)


@pytest.mark.parametrize("how", ["option", "config"])
def test_without_attended_padding_every_crop_is_seen_as_if_alone(tiny25, how):
    wide, square, both = two_pictures(tiny25)
    model = tiny25.model()
    if how == "option":
        compat = dataclasses.replace(tiny25.options.compat, attended_padding=False)
        model.options = dataclasses.replace(tiny25.options, compat=compat)
    else:
        model.config.batch_vision_input = False
    apart = features(model, tiny25.batch([wide, square]))
    together = features(model, tiny25.batch([both]))
    torch.testing.assert_close(together, apart, **CLOSE)


@pytest.mark.parametrize("chosen", [None, False, True])
def test_the_option_reaches_the_model(chosen):
    loaded = load_checkpoint("minicpmv", "tiny-2.5", options={"compat": {"attended_padding": chosen}})
    assert isinstance(loaded.model, MiniCPMV25)
    assert loaded.model.attends_padding is (chosen is not False)


def test_crops_of_2_6_do_not_change_each_other(tiny26):
    wide, square, both = two_pictures(tiny26)
    model = tiny26.model()
    torch.testing.assert_close(
        features(model, tiny26.batch([both])), features(model, tiny26.batch([wide, square])), **CLOSE
    )


# Figures of the original programs, where exact fractions would give others.
@pytest.mark.parametrize(
    ("count", "places"),
    [
        (7, {0: 0, 1: 10, 2: 20, 3: 30, 4: 40, 5: 50, 6: 60}),
        (25, {5: 13, 10: 27, 20: 55, 24: 67}),
        (49, {7: 9, 42: 59}),
        (1050, {45: 2, 165: 10, 1049: 69}),
    ],
)
def test_buckets_round_as_the_originals_do(count, places):
    found = buckets(count, 70).tolist()
    assert len(found) == count
    assert {place: found[place] for place in places} == places


def test_positions_of_a_grid_go_row_by_row():
    assert grid_positions((2, 4), 70).view(2, 4).tolist() == [[0, 17, 35, 52], [2450, 2467, 2485, 2502]]


@pytest.mark.parametrize(("drop", "layers"), [(True, 26), (False, 27)])
def test_the_tower_may_lose_its_last_layer(tiny26, drop, layers):
    config = {"model_type": "minicpmv", "version": 2.6, "drop_vision_last_layer": drop}
    with torch.device("meta"):
        model = tiny26.hooks.build_model(family=tiny26.family, config=config)
    assert len(model.vpm.encoder.layers) == layers
