import pytest
import torch
from torch.nn import functional as F

from polylens_minicpmv.models.minicpmv2 import MiniCPMV2Config
from polylens_minicpmv.vision.positions import resample
from polylens_minicpmv.vision.vit import VisionTower


@pytest.fixture(scope="module")
def tower(tiny):
    return tiny.model().vpm


def plain_vit(tower, crop):
    """The same tower, written for one picture as in any textbook: a convolution, whole-picture attention."""
    states = F.conv2d(crop[None], tower.patch_embed.proj.weight, tower.patch_embed.proj.bias, stride=14)
    height, width = states.shape[-2:]
    states = states.flatten(2).transpose(1, 2) + resample(tower.pos_embed, height, width)
    for block in tower.blocks:
        x = block.norm1(states)
        q, k, v = block.attn.qkv(x).view(1, -1, 3, 4, 16).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-1, -2) / 4).softmax(-1)
        states = states + block.attn.proj((weights @ v).transpose(1, 2).reshape(1, -1, 64))
        x = block.mlp.fc1(block.norm2(states))
        states = states + block.mlp.fc2(x * 0.5 * (1 + torch.erf(x / 2**0.5)))
    return tower.norm(states)[0]


def test_ragged_crops_are_what_a_plain_vit_makes_of_each(tower):
    generator = torch.Generator().manual_seed(0)
    sizes = [(112, 112), (28, 140), (14, 14), (154, 70)]
    crops = [torch.randn(3, *size, dtype=torch.float64, generator=generator) for size in sizes]
    with torch.no_grad():
        states = tower(crops)
        for row, crop in zip(states, crops, strict=True):
            expected = plain_vit(tower, crop)
            torch.testing.assert_close(row[: len(expected)], expected, rtol=1e-11, atol=1e-11)


def test_a_side_that_is_no_whole_number_of_patches_is_filled_with_zeros(tower):
    crop = torch.randn(3, 30, 50, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(tower([crop]), tower([F.pad(crop, (0, 6, 0, 12))]), rtol=0, atol=0)


def test_the_position_table_is_kept_on_its_own_grid_and_resampled_on_others():
    table = torch.randn(1, 64, 3)
    torch.testing.assert_close(resample(table, 8, 8), table[0], rtol=0, atol=0)
    constant = torch.full((1, 64, 3), 0.7, dtype=torch.float64)
    torch.testing.assert_close(resample(constant, 5, 11), torch.full((55, 3), 0.7, dtype=torch.float64))
    half = resample(torch.arange(4.0).view(1, 4, 1).half(), 2, 4)
    assert half.dtype == torch.float16
    rows = resample(torch.arange(4.0).view(1, 2, 2).mean(2).repeat_interleave(2)[None, :, None], 2, 3)
    assert rows.shape == (6, 1)


def test_columns_and_rows_of_the_table_are_not_swapped():
    rising = torch.arange(8.0).repeat(8, 1).view(1, 64, 1)  # grows from column to column
    wide = resample(rising, 4, 16).view(4, 16)
    assert (wide[:, 1:] > wide[:, :-1]).all()
    torch.testing.assert_close(wide[0], wide[-1])


@pytest.mark.parametrize(("drop", "blocks"), [(True, 26), (False, 27)])
def test_the_published_tower_loses_its_last_block(drop, blocks):
    with torch.device("meta"):
        tower = VisionTower(MiniCPMV2Config(drop_vision_last_layer=drop))
    assert len(tower.blocks) == blocks
    assert tower.pos_embed.shape == (1, 27 * 27, 1152)
