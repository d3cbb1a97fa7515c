from __future__ import annotations

from collections import Counter

import pytest

from polylens.data.hash_splits import HashSplits
from polylens.errors import InputError

KEYS = [f"{number:05}.jpg" for number in range(5000)]


def test_parts_are_near_what_is_asked_for_and_the_seed_changes_who():
    splits = HashSplits({"train": 0.8, "validation": 0.05, "test": 0.15})
    found = [splits.split(key) for key in KEYS]
    counts = Counter(found)
    for name, part in splits.parts.items():
        assert abs(counts[name] / 5000 - part) < 0.02
    other = [HashSplits(splits.parts, seed=1).split(key) for key in KEYS]
    assert sum(a != b for a, b in zip(found, other, strict=True)) > 1000


def test_a_record_stays_where_it_is_when_the_test_part_shrinks_into_training():
    """Names in their order share the interval, so records move between neighbours alone."""
    before, after = HashSplits({"train": 0.8, "test": 0.2}), HashSplits({"train": 0.9, "test": 0.1})
    assert all(after.split(key) == "train" for key in KEYS if before.split(key) == "train")


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"train": 0.8}, "sum to 0.8; they must sum to 1"),
        ({"train": 1.2, "test": -0.2}, "split train: its part is 1.2"),
        ({"a/b": 1.0}, "'a/b' cannot be the name of a split"),
        ({"train": float("nan")}, "its part is nan"),
    ],
)
def test_parts_of_no_whole_are_refused(parts, message):
    with pytest.raises(InputError, match=message):
        HashSplits(parts)
