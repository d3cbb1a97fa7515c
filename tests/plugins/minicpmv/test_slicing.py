import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polylens.errors import InputError
from polylens_minicpmv.options import MiniCPMVOptions
from polylens_minicpmv.slicing import MiniCPMVSlicer, slicer_for
from polylens_minicpmv.text.placeholders import wrapped

sides = st.integers(1, 6000)


def slicer(limit: int = 9, tokens: int = 64) -> MiniCPMVSlicer:
    return MiniCPMVSlicer(448, 14, limit, tokens)


# Figures of the original program.
@pytest.mark.parametrize(
    ("size", "grid", "crops", "overview"),
    [
        ((448, 448), None, 1, (448, 448)),
        ((1, 1), None, 1, (448, 448)),
        ((449, 449), (1, 2), 3, (448, 448)),  # a tie: the earlier grid
        ((333, 777), (1, 2), 3, (294, 686)),
        ((595, 842), (1, 2), 3, (378, 532)),  # A4, 72 dpi
        ((800, 600), (2, 2), 5, (518, 392)),
        ((1240, 1754), (2, 4), 9, (378, 532)),  # A4, 150 dpi
        ((1654, 2339), (3, 3), 10, (378, 532)),  # A4, 200 dpi
        ((5000, 500), (9, 1), 10, (1414, 140)),
        ((2000, 50), None, 1, (2800, 70)),  # long but small: cut by area only
    ],
)
def test_sizes_of_the_original(size, grid, crops, overview):
    sliced = slicer().slice(size)
    assert sliced.grid == grid
    assert len(sliced.crops) == crops
    assert sliced.visual_tokens == 64 * crops
    assert sliced.crops[0].scaled == overview


@given(width=sides, height=sides, limit=st.integers(1, 12))
def test_crops_cover_the_picture(width, height, limit):
    sliced = slicer(limit).slice((width, height))
    cells = sliced.crops[1:]
    assert len(sliced.crops) <= limit + 1
    assert len(cells) == (0 if sliced.grid is None else sliced.grid[0] * sliced.grid[1])
    assert sliced.crops[0].window == (0, 0, *sliced.crops[0].scaled)
    assert len({cell.size for cell in cells}) <= 1
    if cells:
        area = sum(cell.size[0] * cell.size[1] for cell in cells)
        assert area == cells[0].scaled[0] * cells[0].scaled[1]
        assert len({cell.window for cell in cells}) == len(cells)
    assert all(side % 14 == 0 and side > 0 for crop in sliced.crops for side in crop.size)


@given(width=sides, height=sides)
def test_token_boxes_tile_the_picture(width, height):
    sliced = slicer(tokens=4).slice((width, height))
    boxes = sliced.token_boxes
    assert boxes.shape == (sliced.visual_tokens, 4)
    assert boxes.dtype == np.float32
    np.testing.assert_array_equal(boxes[:4], np.tile(np.float32([0, 0, width, height]), (4, 1)))
    cells = boxes[4::4].astype(np.float64)
    if len(cells):
        area = ((cells[:, 2] - cells[:, 0]) * (cells[:, 3] - cells[:, 1])).sum()
        assert area == pytest.approx(width * height, rel=1e-5)


def test_slices_go_row_by_row():
    sliced = slicer(tokens=1).slice((800, 600))
    lefts_and_tops = [(int(box[0]), int(box[1])) for box in sliced.token_boxes[1:]]
    assert lefts_and_tops == [(0, 0), (400, 0), (0, 300), (400, 300)]
    assert [crop.window[:2] for crop in sliced.crops[1:]] == [(0, 0), (518, 0), (0, 392), (518, 392)]


def test_options_take_precedence_over_the_file():
    config = {"max_slice_nums": 9, "scale_resolution": 448, "patch_size": 14, "query_num": 64, "slice_mode": True}
    size = (1654, 2339)
    assert len(slicer_for(config, MiniCPMVOptions()).slice(size).crops) == 10
    assert len(slicer_for(config, MiniCPMVOptions(max_slice_nums=4)).slice(size).crops) == 5
    assert len(slicer_for({**config, "max_slice_nums": 1}, MiniCPMVOptions()).slice(size).crops) == 1
    whole = slicer_for(config, MiniCPMVOptions(slice_mode=False)).slice(size)
    assert whole.grid is None
    assert whole.crops[0].scaled == size


def test_bad_input_is_refused():
    with pytest.raises(InputError, match="0 x 5 pixels is empty"):
        slicer().slice((0, 5))
    with pytest.raises(ValueError, match="at least 1"):
        MiniCPMVOptions(max_slice_nums=0)


def test_placeholders_of_a_grid():
    one = "<image><unk><unk></image>"
    rows = f"{one}{one}\n{one}{one}"
    assert wrapped(slicer(tokens=2).slice((800, 600)), "<unk>") == f"{one}<slice>{rows}</slice>"
    assert wrapped(slicer(tokens=2).slice((400, 400)), "<unk>") == one


def test_every_row_of_the_original_table(golden):
    table = json.loads((golden / "minicpmv" / "slicing.json").read_text(encoding="utf-8"))
    assert len(table["cases"]) > 100
    for row in table["cases"]:
        sliced = slicer(row["max_slice_nums"]).slice(tuple(row["size"]))
        assert (list(sliced.grid) if sliced.grid else None) == row["grid_cols_rows"], row
        assert list(sliced.crops[0].scaled) == row["source_size"], row
        assert wrapped(sliced, "<unk>").replace("<unk>" * 64, "{U}") == row["placeholder_v2_q64"]
        patches = [[crop.size[1] // 14, crop.size[0] // 14] for crop in sliced.crops]
        assert patches == row["tgt_sizes_h_w"], row
        if sliced.grid:
            assert list(sliced.crops[1].scaled) == row["refine_size"], row
            assert list(sliced.crops[1].size) == row["slice_size"], row


def test_sizes_of_the_original_crops(golden):
    table = json.loads((golden / "minicpmv" / "slicing.json").read_text(encoding="utf-8"))
    for row in table["pixels"]:
        width, height, _ = row["synth"]
        sliced = slicer(row["max_slice_nums"]).slice((width, height))
        assert [list(crop.size) for crop in sliced.crops] == row["sizes"]
