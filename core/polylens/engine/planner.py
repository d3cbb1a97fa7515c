"""Cuts the rows of a global batch into micro-batches for every rank.

The plan is a function of costs alone, so every rank computes the plan of all ranks without communication. The
gradient does not depend on it: representations carry their positions.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Budget:
    """How large a micro-batch may be: a number of rows, or of padded tokens (rows x longest row).

    A row that alone exceeds the token budget gets a micro-batch of its own. With neither, all rows of a role are one
    micro-batch.
    """

    rows: int | None = None
    tokens: int | None = None

    def __post_init__(self) -> None:
        for name, value in (("rows", self.rows), ("tokens", self.tokens)):
            if value is not None and value < 1:
                raise ValueError(f"a micro-batch of {value} {name} cannot hold a row")
        if self.rows is not None and self.tokens is not None:
            raise ValueError("give a micro-batch size in rows or in tokens, not both")

    def fits(self, rows: int, longest: int) -> bool:
        if self.tokens is not None:
            return rows == 1 or rows * longest <= self.tokens
        return self.rows is None or rows <= self.rows


def share_out(costs: Sequence[int], ranks: int, *, sort: bool) -> list[list[int]]:
    """Row numbers for each rank, of like total cost: sorted rows are dealt back and forth.

    Unsorted, each rank gets a run of consecutive rows, whose lengths differ by one at most.

    >>> share_out([5, 1, 4, 2], ranks=2, sort=True)
    [[0, 1], [2, 3]]
    """
    if not sort:
        cuts = [len(costs) * rank // ranks for rank in range(ranks + 1)]
        return [list(range(first, last)) for first, last in itertools.pairwise(cuts)]
    order = sorted(range(len(costs)), key=lambda row: (-costs[row], row))
    shares: list[list[int]] = [[] for _ in range(ranks)]
    for place, row in enumerate(order):
        lap, seat = divmod(place, ranks)
        shares[seat if lap % 2 == 0 else ranks - 1 - seat].append(row)
    return shares


def pack(rows: Sequence[int], costs: Sequence[int], budget: Budget, *, sort: bool) -> list[list[int]]:
    """Micro-batches of one rank's rows; sorted by cost first, so that padding is small.

    >>> pack([0, 1, 2], [10, 90, 12], Budget(tokens=100), sort=True)
    [[1], [2, 0]]
    """
    if sort:
        rows = sorted(rows, key=lambda row: (-costs[row], row))
    packed: list[list[int]] = []
    longest = 0
    for row in rows:
        longest = max(longest, costs[row])
        if packed and budget.fits(len(packed[-1]) + 1, longest):
            packed[-1].append(row)
        else:
            packed.append([row])
            longest = costs[row]
    return packed


def plan(
    costs: Sequence[int], roles: Sequence[int], ranks: int, budget: Budget, *, sort: bool = True
) -> list[list[list[int]]]:
    """Micro-batches of every rank: rank -> micro-batch -> row numbers.

    A micro-batch holds rows of one role, because queries and pages differ tenfold in length. Every rank gets the same
    number of micro-batches, at least one; a rank with fewer gets empty ones, which the engine runs as well, since
    ZeRO-3 needs every rank to make the same calls.

    Args:
        costs: tokens of each row of the global batch.
        roles: role of each row.
    """
    plans: list[list[list[int]]] = [[] for _ in range(ranks)]
    for role in sorted(set(roles)):
        members = [row for row, r in enumerate(roles) if r == role]
        shares = share_out([costs[row] for row in members], ranks, sort=sort)
        packed = [pack([members[i] for i in share], costs, budget, sort=sort) for share in shares]
        for own, part in zip(plans, _level(packed), strict=True):
            own.extend(part)
    return plans if plans[0] else [[[]] for _ in range(ranks)]


def _level(packed: list[list[list[int]]]) -> list[list[list[int]]]:
    """The same number of micro-batches on every rank."""
    most = max(map(len, packed))
    return [part + [[] for _ in range(most - len(part))] for part in packed]
