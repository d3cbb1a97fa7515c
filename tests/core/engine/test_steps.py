"""What each optimizer step sees, on every rank."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polylens.contracts import Message, Record
from polylens.data.images import ImageOpener
from polylens.data.pairs import Pair, read_pairs
from polylens.data.store import open_documents
from polylens.engine.pair_steps import (
    DOCUMENT,
    QUERY,
    PairBatches,
    PairPlanner,
    PairRecords,
    check_enough_documents,
)
from polylens.engine.planner import Budget
from polylens.engine.steps import ModalityBatches, Row, StepPlanner
from polylens.errors import InputError


def pair(
    number: int, positives: tuple[str, ...], *, query: str = "", negatives: tuple[str, ...] = (), batch: int = -1
):
    text = query or f"query {number}"
    return Pair(str(number), Record(str(number), (Message("user", (text,)),)), positives, negatives, "", "", batch)


class Costs:
    """Records of which only the costs are known: (tokens, bytes of pixels)."""

    def __init__(self, pairs: list[Pair], pixels: int = 10) -> None:
        self.pairs, self._pixels = pairs, pixels

    def cost(self, row: Row) -> tuple[int, int]:
        if row.role == QUERY:
            return 3 + row.key % 4, 0
        return 20 + sum(map(ord, row.key)) % 9, self._pixels


def planner(pairs: list[Pair], size: int, *, ranks: int = 1, rank: int = 0, seed: int = 0, **options) -> StepPlanner:
    shuffle, drop_last = options.pop("shuffle", False), options.pop("drop_last", False)
    budget, records = options.pop("budget", Budget(rows=2)), Costs(pairs, options.pop("pixels", 10))
    batches = PairBatches(pairs, size, seed=seed, shuffle=shuffle, drop_last=drop_last)
    return PairPlanner(records, batches, rank=rank, ranks=ranks, budget=budget, **options)  # type: ignore[arg-type]


def in_positions(plans) -> tuple[list[Row], list[Row]]:
    """Queries and documents of a global batch, from the plans of all ranks, by their positions."""
    rows = [row for plan in plans for part in plan.micro_batches for row in part]
    queries, documents = ([row for row in rows if row.role == role] for role in (QUERY, DOCUMENT))
    for found in (queries, documents):
        assert sorted(row.position for row in found) == list(range(len(found)))
    return sorted(queries, key=lambda row: row.position), sorted(documents, key=lambda row: row.position)


@given(st.integers(0, 40), st.integers(1, 9), st.booleans(), st.booleans(), st.integers(0, 5))
def test_every_pair_comes_once_an_epoch(count, size, shuffle, drop_last, epoch):
    batches = PairBatches([pair(i, ("d",)) for i in range(count)], size, seed=1, shuffle=shuffle, drop_last=drop_last)
    drawn = batches.epoch(epoch)
    assert len(drawn) == len(batches) == (count // size if drop_last else -(-count // size))
    seen = Counter(int(number) for batch in drawn for number in batch)
    assert set(seen.values()) <= {1}
    assert len(seen) == (count // size * size if drop_last else count)
    assert all(len(batch) == size for batch in drawn) or not drop_last


@given(st.lists(st.integers(1, 7), max_size=8), st.integers(1, 5), st.booleans())
def test_groups_are_never_mixed(lengths, size, drop_last):
    """Batches that ``polylens data pairs`` put together share a source and have unique documents."""
    groups = [group for group, length in enumerate(lengths) for _ in range(length)]
    pairs = [pair(i, ("d",), batch=group) for i, group in enumerate(groups)]
    batches = PairBatches(pairs, size, seed=1, shuffle=False, drop_last=drop_last)
    drawn = batches.epoch(3)
    assert len(batches) == len(drawn)
    assert all(len({groups[number] for number in batch}) == 1 for batch in drawn)
    whole = sum(length // size * size if drop_last else length for length in lengths)
    assert len({int(number) for batch in drawn for number in batch}) == whole


@given(st.lists(st.booleans(), max_size=40), st.integers(1, 9), st.booleans(), st.integers(0, 3))
def test_pictures_and_text_alone_have_batches_of_their_own(pictured, size, drop_last, epoch):
    """Also where all records are of one kind. What is left of both may share a batch."""
    batches = ModalityBatches(pictured, size, seed=1, drop_last=drop_last)
    drawn = batches.epoch(epoch)
    assert len(drawn) == len(batches) == (len(pictured) // size if drop_last else -(-len(pictured) // size))
    seen = Counter(int(number) for batch in drawn for number in batch)
    assert set(seen.values()) <= {1}
    assert len(seen) == (len(pictured) // size * size if drop_last else len(pictured))
    kinds = [{pictured[number] for number in batch} for batch in drawn if len(batch) == size]
    assert sum(kind == {True} for kind in kinds) >= sum(pictured) // size
    assert sum(kind == {False} for kind in kinds) >= (len(pictured) - sum(pictured)) // size
    assert sum(len(kind) > 1 for kind in kinds) <= 1


def test_batches_of_one_modality_are_drawn_anew_each_epoch():
    batches = ModalityBatches([True] * 20 + [False] * 20, 4, seed=0, drop_last=False)
    epochs = [np.concatenate(batches.epoch(epoch)).tolist() for epoch in (0, 0, 1)]
    assert epochs[0] == epochs[1] != epochs[2]


@pytest.mark.parametrize("shuffle", [True, False])
def test_the_order_differs_by_epoch_and_seed_and_is_otherwise_the_same(shuffle):
    pairs = [pair(i, ("d",)) for i in range(40)]

    def order(seed: int, epoch: int) -> list[int]:
        batches = PairBatches(pairs, 4, seed=seed, shuffle=shuffle, drop_last=False)
        return np.concatenate(batches.epoch(epoch)).tolist()

    assert order(0, 0) == order(0, 0)
    assert len({tuple(order(seed, epoch)) for seed, epoch in itertools.product((0, 1), (0, 1, 2))}) == 6


def test_batches_follow_the_file():
    batches = PairBatches([pair(i, ("d",)) for i in range(7)], 3, seed=0, shuffle=False, drop_last=False)
    assert sorted(batch.tolist() for batch in batches.epoch(0)) == [[0, 1, 2], [3, 4, 5], [6]]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 12), st.integers(1, 4), st.integers(1, 3), st.booleans(), st.integers(0, 2))
def test_the_plans_of_all_ranks_together_are_the_batch(count, ranks, accumulation, sort, negatives):
    pairs = [pair(i, (f"p{i}",), negatives=(f"n{i}", f"m{i}")) for i in range(count)]
    planners = [
        planner(pairs, 5, ranks=ranks, rank=rank, sort=sort, accumulation=accumulation, hard_negatives=negatives)
        for rank in range(ranks)
    ]
    seen = []
    for step in range(len(planners[0])):
        for plans in zip(*(one.step(1, step) for one in planners), strict=True):
            queries, documents = in_positions(plans)
            assert len({len(plan.micro_batches) for plan in plans}) == 1
            wanted = plans[0].targets.positive.tolist()
            assert [documents[at].key for at in wanted] == [pairs[query.key].positives[0] for query in queries]
            assert len(documents) == len(queries) * (1 + negatives)
            assert all(plan.size == len(queries) for plan in plans)
            assert all(plan.targets.positive.tolist() == wanted for plan in plans)
            seen += [query.key for query in queries]
    assert sorted(seen) == list(range(count))


def test_a_step_holds_as_many_batches_as_are_accumulated():
    steps = planner([pair(i, (f"d{i}",)) for i in range(20)], 3, accumulation=3)
    assert [len(steps.step(0, step)) for step in range(len(steps))] == [3, 3, 1]


def ignored(pairs: list[Pair], **options) -> set[tuple[str, str, int]]:
    """(query, document, position of the document) of the one batch that all pairs make."""
    (plan,) = planner(pairs, len(pairs), **options).step(0, 0)
    queries, documents = in_positions([plan])
    found = plan.targets.ignore.tolist()
    return {(pairs[queries[i].key].id, documents[j].key, documents[j].position) for i, j in found}


def test_the_same_question_twice_is_no_negative_of_itself():
    """Both pages answer it, whichever pair names which."""
    pairs = [pair(0, ("a",), query="how?"), pair(1, ("b",), query="how?"), pair(2, ("c",))]
    assert {(query, document) for query, document, _ in ignored(pairs)} == {("0", "b"), ("1", "a")}


def test_the_same_page_twice_is_no_negative_of_itself():
    """The other copy of a query's own document is left out, the target stays."""
    found = ignored([pair(0, ("a",)), pair(1, ("a",)), pair(2, ("c",))])
    assert {(query, document) for query, document, _ in found} == {("0", "a"), ("1", "a")}
    assert len(found) == 2
    assert len({position for *_, position in found}) == 2


def test_further_answers_and_relevant_hard_negatives_are_no_negatives():
    pairs = [pair(0, ("a", "b")), pair(1, ("c",), negatives=("b", "d")), pair(2, ("b",))]
    found = {(query, document) for query, document, _ in ignored(pairs, hard_negatives=2)}
    assert found == {("0", "b"), ("2", "b")}


def test_answers_take_turns():
    pairs = [pair(0, ("a", "b", "c")), pair(1, ("d",))]
    steps = planner(pairs, 2)
    taken = []
    for epoch in range(4):
        (plan,) = steps.step(epoch, 0)
        queries, documents = in_positions([plan])
        at = [query.key for query in queries].index(0)
        taken.append(documents[plan.targets.positive[at]].key)
    assert taken == ["a", "b", "c", "a"]


@pytest.mark.parametrize(("budget", "keep"), [(0, 3), (19, 3), (20, 4), (39, 4), (40, 5), (49, 5), (50, 6)])
def test_pixels_are_kept_up_to_the_budget(budget, keep):
    """Three micro-batches of queries without pixels, then documents of 20, 20 and 10 bytes."""
    pairs = [pair(i, (f"d{i}",)) for i in range(5)]
    (plan,) = planner(pairs, 5, budget=Budget(rows=2), pixel_cache_bytes=budget).step(0, 0)
    assert [len(part) for part in plan.micro_batches] == [2, 2, 1, 2, 2, 1]
    assert plan.keep == keep


def test_tokens_are_counted_with_and_without_padding():
    pairs = [pair(i, (f"d{i}",)) for i in range(5)]
    plans = [planner(pairs, 5, ranks=2, rank=rank, budget=Budget(rows=3)).step(0, 0)[0] for rank in (0, 1)]
    records = Costs(pairs)
    for plan in plans:
        costs = [[records.cost(row)[0] for row in part] for part in plan.micro_batches]
        assert plan.padded_tokens == sum(len(part) * max(part) for part in costs if part)
        assert plan.tokens == sum(3 + i % 4 + records.cost(Row(DOCUMENT, f"d{i}", 0))[0] for i in range(5))


def test_costs_are_those_of_the_examples(tiny, toy):
    """Known from the headers of the pictures, and equal to what is then prepared."""
    documents = open_documents([toy[1]])
    pairs = read_pairs([toy[0]], documents=documents)
    preparer = tiny.preparer(ImageOpener(None, documents), "plain")
    records = PairRecords(pairs.pairs, documents, preparer, (512, 2048))
    for row in (Row(QUERY, 3, 0), *(Row(DOCUMENT, id, 0) for id in documents.ids())):
        example = preparer.example(records.record(row))
        assert records.cost(row) == (example.cost, sum(crop.numel() for crop in example.pixels))


@pytest.mark.parametrize(
    ("pairs", "what"),
    [
        ([pair(0, ("a",)), pair(1, ("b",))], "2 pairs"),
        ([pair(i, ("a", "b")) for i in range(9)], "2 different positive documents"),
    ],
)
def test_a_batch_that_cannot_be_filled_is_refused(pairs, what):
    with pytest.raises(InputError, match=f"has {what}, too few for a batch of 3 queries"):
        check_enough_documents(pairs, 3)
    with pytest.raises(InputError, match="1 pairs"):
        check_enough_documents(pairs[:1], 1)
    check_enough_documents(pairs, 2)
