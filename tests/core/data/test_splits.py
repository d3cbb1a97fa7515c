import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polylens.data.splits import Groups, pack_batches, split_groups
from polylens.errors import InputError

FRACTIONS = {"train": 0.8, "validation": 0.1, "test": 0.1}
names = st.text("abcdefgh", min_size=1, max_size=2)


@given(st.lists(st.lists(names, min_size=1, max_size=3), max_size=20), st.randoms(use_true_random=False))
def test_groups_do_not_depend_on_the_order_of_joining(joins, shuffler):
    one, two = Groups(), Groups()
    for join in joins:
        one.join(join)
    for join in shuffler.sample(joins, len(joins)):
        two.join(shuffler.sample(join, len(join)))
    for join in joins:
        assert {one[name] for name in join} == {two[join[0]]}
        assert one[join[0]] <= min(join)


@given(st.dictionaries(names, st.integers(1, 50), min_size=3), st.integers(0, 99))
def test_every_group_has_one_split_and_every_split_a_group(sizes, seed):
    chosen = split_groups(sizes, FRACTIONS, seed)
    assert chosen.keys() == sizes.keys()
    assert set(chosen.values()) == set(FRACTIONS)
    items = list(sizes.items())
    random.Random(seed).shuffle(items)
    assert split_groups(dict(items), FRACTIONS, seed) == chosen


def test_splits_come_near_the_fractions_and_change_with_the_seed():
    sizes = {f"file {n}": 1 + n % 7 for n in range(300)}
    total = sum(sizes.values())
    one, two = split_groups(sizes, FRACTIONS, 1), split_groups(sizes, FRACTIONS, 2)
    for split, fraction in FRACTIONS.items():
        assert abs(sum(size for name, size in sizes.items() if one[name] == split) - fraction * total) <= 7
    assert one != two


def test_a_giant_group_is_trained_on():
    assert split_groups({"giant": 900, "a": 50, "b": 50}, FRACTIONS, 0)["giant"] == "train"


def test_too_few_groups():
    with pytest.raises(InputError, match="2 independent groups of documents cannot be divided into train, valid"):
        split_groups({"a": 5, "b": 5}, FRACTIONS, 0)
    assert split_groups({"a": 5}, {"train": 1.0, "test": 0.0}, 0) == {"a": "train"}


@given(st.lists(st.sets(st.integers(0, 12), max_size=4), max_size=60), st.integers(1, 7))
def test_batches_hold_everything_once_and_no_key_twice(keys, size):
    batches = pack_batches(keys, size)
    assert sorted(item for batch in batches for item in batch) == list(range(len(keys)))
    for batch in batches:
        assert 0 < len(batch) <= size
        inside = [key for item in batch for key in keys[item]]
        assert len(inside) == len(set(inside))


def test_items_without_common_keys_fill_all_batches_but_the_last():
    assert [len(batch) for batch in pack_batches([[n] for n in range(1000)], 128)] == [128] * 7 + [104]


def test_few_batches_stay_short_when_pages_have_several_queries():
    pages = [page for page in range(2000) for _ in range(5)]
    random.Random(0).shuffle(pages)
    batches = pack_batches([[page] for page in pages], 128)
    assert sum(len(batch) for batch in batches if len(batch) == 128) > 0.98 * len(pages)


def test_packing_looks_at_each_item_a_few_times_only():
    class Counting(dict):
        pass

    looks = 0

    class Key:
        def __hash__(self):
            nonlocal looks
            looks += 1
            return 0

        def __eq__(self, other):
            return self is other

    one = Key()
    batches = pack_batches([[one]] * 5000, 128)
    assert len(batches) == 5000
    assert looks <= 5 * 5000
