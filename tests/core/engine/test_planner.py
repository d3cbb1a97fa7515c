"""How the rows of a global batch are cut for every rank."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polylens.engine.planner import Budget, pack, plan, share_out

COSTS = st.lists(st.integers(1, 200), max_size=40)
RANKS = st.integers(1, 5)
ROWS = st.none() | st.integers(1, 8)
BUDGETS = ROWS.map(lambda rows: Budget(rows=rows)) | st.integers(1, 500).map(lambda tokens: Budget(tokens=tokens))


@st.composite
def batches(draw: st.DrawFn) -> tuple[list[int], list[int]]:
    costs = draw(COSTS)
    return costs, draw(st.lists(st.integers(0, 1), min_size=len(costs), max_size=len(costs)))


@given(batches(), RANKS, BUDGETS, st.booleans())
def test_every_row_is_planned_once(batch, ranks, budget, sort):
    costs, roles = batch
    planned = plan(costs, roles, ranks, budget, sort=sort)
    assert Counter(row for own in planned for part in own for row in part) == Counter(range(len(costs)))


@given(batches(), RANKS, BUDGETS, st.booleans())
def test_ranks_keep_step(batch, ranks, budget, sort):
    """The same number of micro-batches on every rank, at least one, and one role at each place."""
    costs, roles = batch
    planned = plan(costs, roles, ranks, budget, sort=sort)
    assert len(planned) == ranks
    assert len({len(own) for own in planned}) == 1
    assert planned[0]
    for parts in zip(*planned, strict=True):
        assert len({roles[row] for part in parts for row in part}) <= 1
        assert any(parts) or not costs, "a micro-batch that is empty on every rank is a pass for nothing"


@given(batches(), RANKS, BUDGETS, st.booleans())
def test_budgets_are_kept(batch, ranks, budget, sort):
    costs, roles = batch
    for part in (part for own in plan(costs, roles, ranks, budget, sort=sort) for part in own if part):
        assert budget.rows is None or len(part) <= budget.rows
        assert budget.tokens is None or len(part) == 1 or len(part) * max(costs[row] for row in part) <= budget.tokens


@given(batches(), RANKS, st.booleans())
def test_without_a_budget_a_role_is_one_micro_batch(batch, ranks, sort):
    costs, roles = batch
    planned = plan(costs, roles, ranks, Budget(), sort=sort)
    assert all(len(own) == max(len(set(roles)), 1) for own in planned)


@given(COSTS, RANKS)
def test_ranks_cost_about_the_same(costs, ranks):
    """Dealt back and forth, no two ranks differ by more than the dearest row, nor by more than one row."""
    shares = share_out(costs, ranks, sort=True)
    totals = [sum(costs[row] for row in share) for share in shares]
    assert max(totals) - min(totals) <= max(costs, default=0)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@given(COSTS, RANKS)
def test_unsorted_rows_stay_in_their_order(costs, ranks):
    shares = share_out(costs, ranks, sort=False)
    assert [row for share in shares for row in share] == list(range(len(costs)))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    packed = pack(range(len(costs)), costs, Budget(rows=3), sort=False)
    assert [row for part in packed for row in part] == list(range(len(costs)))


@given(COSTS, ROWS)
def test_sorting_never_costs_padding(costs, rows):
    """Where parts are full; the cheap rows left over may go better with others."""
    costs = costs[: len(costs) // rows * rows] if rows else costs

    def padded(sort: bool) -> int:
        parts = pack(range(len(costs)), costs, Budget(rows=rows), sort=sort)
        return sum(len(part) * max(costs[row] for row in part) for part in parts)

    assert padded(sort=True) <= padded(sort=False)


@given(batches(), RANKS, BUDGETS, st.booleans())
def test_the_plan_is_a_function_of_the_costs(batch, ranks, budget, sort):
    costs, roles = batch
    assert plan(costs, roles, ranks, budget, sort=sort) == plan(tuple(costs), tuple(roles), ranks, budget, sort=sort)


@given(st.lists(st.integers(1, 9), max_size=20), RANKS)
def test_equal_costs_keep_the_order_of_the_rows(costs, ranks):
    """Otherwise two versions of Python or two machines could plan differently."""
    dealt = share_out(costs, ranks, sort=True)
    assert sorted(row for share in dealt for row in share) == list(range(len(costs)))
    for share in dealt:
        assert share == sorted(share, key=lambda row: (-costs[row], row))


def test_a_row_beyond_the_budget_stands_alone():
    assert pack([0, 1, 2, 3], [40, 300, 50, 50], Budget(tokens=100), sort=True) == [[1], [2, 3], [0]]
    assert pack([0, 1, 2, 3], [40, 300, 50, 50], Budget(tokens=100), sort=False) == [[0], [1], [2, 3]]


def test_an_empty_batch_still_has_a_micro_batch():
    assert plan([], [], 2, Budget(rows=4)) == [[[]], [[]]]


@pytest.mark.parametrize(
    ("given_budget", "message"),
    [
        ({"rows": 0}, "a micro-batch of 0 rows cannot hold a row"),
        ({"tokens": -5}, "a micro-batch of -5 tokens cannot hold a row"),
        ({"rows": 2, "tokens": 100}, "in rows or in tokens, not both"),
    ],
)
def test_a_budget_that_holds_nothing_is_refused(given_budget, message):
    with pytest.raises(ValueError, match=message):
        Budget(**given_budget)
