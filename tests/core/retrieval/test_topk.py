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


STREAMS = {
    "random": lambda numbers, shape: numbers.standard_normal(shape),
    "ascending": lambda numbers, shape: np.sort(numbers.standard_normal(shape), axis=1),
    "descending": lambda numbers, shape: -np.sort(numbers.standard_normal(shape), axis=1),
    "all equal": lambda numbers, shape: np.ones(shape),
    "few values": lambda numbers, shape: numbers.integers(-2, 3, shape),
    "next to each other": lambda numbers, shape: 0.5 + numbers.integers(0, 40, shape) * 2.0**-24,
    "steps": lambda numbers, shape: np.broadcast_to(np.arange(shape[1]) // 100, shape),
    "one row at a time": lambda numbers, shape: (
        np.where(numbers.integers(0, shape[0], (shape[0], 1)), -1, 1) * np.sort(numbers.standard_normal(shape), axis=1)
    ),
}


@settings(max_examples=150, deadline=None)
@given(
    stream=st.sampled_from(sorted(STREAMS)),
    rows=st.integers(1, 5),
    count=st.integers(0, 1500),
    k=st.sampled_from([1, 2, 10, 63, 64, 65, 100, 1000]),
    tile=st.one_of(st.integers(1, 400), st.integers(1, 100).map(lambda groups: 8 * groups)),
    seed=st.integers(0, 99),
)
def test_long_streams_of_any_order(stream, rows, count, k, tile, seed):
    """Long enough for several merges, with tiles that are cut into groups and tiles that are not."""
    scores = STREAMS[stream](np.random.default_rng(seed), (rows, count)).astype(np.float32)
    best = RunningTopK(rows, k, torch.device("cpu"))
    for start in range(0, count, tile):
        best.update(torch.from_numpy(scores[:, start : start + tile].T.copy()), start)
    values, positions, found = best.result()
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    for row in range(rows):
        assert positions[row][found[row]].tolist() == order[row].tolist()
        assert values[row][found[row]].tolist() == scores[row, order[row]].tolist()


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
