import pytest
import torch
from torch import nn

from polylens_minicpmv.vision.positions import sincos
from polylens_minicpmv.vision.resampler import query_positions


@pytest.fixture(scope="module")
def resampler(tiny):
    return tiny.model().resampler


def with_torch_attention(resampler, features, height, width):
    """The same connector around torch's own attention, for one crop."""
    dim = 128
    attention = nn.MultiheadAttention(dim, dim // 128, batch_first=True, dtype=torch.float64)
    attention.load_state_dict(resampler.attn.state_dict())
    value = resampler.ln_kv(resampler.kv_proj(features))[None]
    key = value + sincos(dim, height, width).double()
    query = (resampler.ln_q(resampler.query) + resampler.pos_embed)[None]
    return resampler.ln_post(attention(query, key, value, need_weights=False)[0]) @ resampler.proj


def test_ragged_crops_are_what_torch_attention_makes_of_each(resampler):
    grids = [(3, 4), (4, 3), (1, 1), (2, 9)]
    features = torch.randn(4, 18, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        tokens = resampler(features, grids)
        for own, row, (height, width) in zip(tokens, features, grids, strict=True):
            expected = with_torch_attention(resampler, row[: height * width], height, width)[0]
            torch.testing.assert_close(own, expected, rtol=1e-10, atol=1e-10)


def test_the_shape_of_a_crop_counts(resampler):
    features = torch.randn(1, 12, 64, dtype=torch.float64)
    with torch.no_grad():
        assert (resampler(features, [(3, 4)]) - resampler(features, [(4, 3)])).abs().max() > 0.01


def test_positions_encode_column_then_row():
    table = sincos(8, 3, 5).view(3, 5, 8)
    # column 4, row 2; frequencies 1 and 1/100
    column = [-0.756802, 0.039989, -0.653644, 0.999200]
    row = [0.909297, 0.019999, -0.416147, 0.999800]
    torch.testing.assert_close(table[2, 4], torch.tensor([*column, *row]), rtol=0, atol=1e-6)


def test_query_positions_are_stored_and_never_trained(resampler):
    resampler.requires_grad_(True)
    assert "pos_embed" not in dict(resampler.named_parameters())
    assert "pos_embed" in resampler.state_dict()
    torch.testing.assert_close(resampler.pos_embed.float(), query_positions(16, 128))
