from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polylens.retrieval.topk import RunningTopK

# Few different values, so that ties are everywhere, and the ends of float32.
NUMBERS = st.sampled_from([-3.4e38, -1.5, -1e-45, -0.0, 0.0, 1e-45, 0.25, 0.25000003, 1.5, 3.4e38])


@settings(max_examples=200, deadline=None)
@given(data=st.data(), rows=st.integers(1, 4), count=st.integers(0, 40), k=st.integers(1, 45))
def test_keeps_the_greatest_scores_and_the_smallest_positions(data, rows, count, k):
    scores = np.array(data.draw(st.lists(NUMBERS, min_size=rows * count, max_size=rows * count)), dtype=np.float32)
    scores = scores.reshape(rows, count)
    best, start = RunningTopK(rows, k, torch.device("cpu")), 0
    while start < count:
        stop = min(count, start + data.draw(st.integers(1, 20)))
        best.update(torch.from_numpy(scores[:, start:stop].T.copy()), start)
        start = stop
    values, positions, found = best.result()
    for row in range(rows):
        order = sorted(range(count), key=lambda position: (-scores[row, position], position))[:k]
        assert positions[row][found[row]].tolist() == order
        assert values[row][found[row]].tolist() == scores[row, order].tolist()


def test_minus_infinity_leaves_a_position_out():
    best = RunningTopK(1, 3, torch.device("cpu"))
    best.update(torch.tensor([[1.0], [-torch.inf], [2.0]]), 0)
    _, positions, found = best.result()
    assert positions[found].tolist() == [2, 0]


def test_positions_beyond_two_thousand_million_are_kept():
    best = RunningTopK(1, 2, torch.device("cpu"))
    best.update(torch.tensor([[1.0], [1.0]]), 0)
    best.update(torch.tensor([[2.0], [1.0]]), 2**32 - 2)
    assert best.result()[1].tolist() == [[2**32 - 2, 0]]
