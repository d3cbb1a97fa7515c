"""Chunks of crops, on a small tower: what is called when, what is kept, what is drawn."""

from __future__ import annotations

import weakref

import pytest
import torch
from torch import nn

from polylens.modeling.vision import Stage, in_chunks, must_touch


class Tower(nn.Module):
    """Notes the lengths of what it is called with, and how many of its calls are held in memory at a time."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(3, 16).double(), nn.Linear(16, 2).double()
        self.dropout = nn.Dropout(dropout)
        self.calls: list[list[int]] = []
        self.alive = self.most_alive = 0

    def forward(self, crops: list[torch.Tensor]) -> list[torch.Tensor]:
        self.calls.append([len(crop) for crop in crops])
        states = self.dropout(self.inner(torch.cat(list(crops))))
        self._watch(states)
        return list(self.outer(states * states).split(self.calls[-1]))

    def _watch(self, states: torch.Tensor) -> None:
        self.alive += 1
        self.most_alive = max(self.alive, self.most_alive)
        weakref.finalize(states, self._gone)

    def _gone(self) -> None:
        self.alive -= 1


BLANK = torch.zeros(1, 3, dtype=torch.float64)


def crops(*lengths: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(length, 3, dtype=torch.float64, generator=generator) for length in lengths]


def stage(tower: Tower, **options) -> Stage:
    return Stage(tower, (tower,), BLANK, **options)


def gradient(tower: Tower, items: list[torch.Tensor], size: int | None) -> torch.Tensor:
    tower.zero_grad()
    torch.cat(in_chunks(items, [stage(tower)], size)).sin().sum().backward()
    return torch.cat([weight.grad.flatten() for weight in tower.parameters()])


def test_crops_of_like_length_share_a_chunk_and_come_back_in_order():
    tower, items = Tower(), crops(2, 7, 1, 6, 3)
    made = in_chunks(items, [stage(tower, length=len)], 2)
    assert tower.calls == [[7, 6], [3, 2], [1]]
    for own, item in zip(made, items, strict=True):
        torch.testing.assert_close(own, tower([item])[0])


def test_without_a_size_there_is_one_call_in_the_given_order():
    tower = Tower()
    in_chunks(crops(2, 7, 1), [stage(tower, length=len)], None)
    assert tower.calls == [[2, 7, 1]]


def test_one_chunk_of_activations_exists_at_a_time():
    tower, items = Tower(), crops(*range(1, 9))
    wanted = gradient(tower, items, None)
    for size in (1, 3):
        tower.calls, tower.most_alive = [], 0
        torch.testing.assert_close(gradient(tower, items, size), wanted, rtol=1e-12, atol=1e-12)
        assert tower.most_alive == 1
        chunks = -(-len(items) // size)
        assert tower.calls[chunks:] == tower.calls[:chunks][::-1], "each chunk once more, the last one first"


def test_a_frozen_stage_is_computed_once_and_the_trained_one_behind_it_twice():
    tower, connector = Tower().requires_grad_(False), Tower()
    connector.inner = nn.Linear(2, 16).double()
    made = in_chunks(crops(1, 2, 3, 4), [stage(tower), stage(connector)], 2)
    torch.cat(made).sum().backward()
    assert (len(tower.calls), len(connector.calls)) == (2, 4)


def test_nothing_is_recomputed_for_light_weights_alone():
    tower = Tower()
    tower.inner.requires_grad_(False)
    made = in_chunks(crops(1, 2, 3), [stage(tower, light=(tower.outer,))], 1)
    torch.cat(made).sum().backward()
    assert len(tower.calls) == 3
    assert tower.outer.weight.grad.any()


def test_both_passes_and_the_recomputation_draw_the_same_random_numbers():
    tower, items = Tower(dropout=0.5), crops(2, 3, 4)

    def seeded(size: int) -> torch.Tensor:
        torch.manual_seed(5)
        return torch.cat(in_chunks(items, [stage(tower)], size))

    with torch.no_grad():
        first, after = seeded(2), torch.rand(1)
    second = seeded(2)
    assert torch.equal(first, second)
    assert torch.equal(torch.rand(1), after)
    second.sum().backward()
    kept = tower.inner.bias.grad.clone()
    tower.zero_grad()
    torch.manual_seed(5)
    torch.cat([*tower(items[:2]), *tower(items[2:])]).sum().backward()  # the same draws, nothing computed again
    torch.testing.assert_close(kept, tower.inner.bias.grad)


@pytest.mark.parametrize("size", [None, 2])
def test_without_crops_trained_weights_get_zero_gradients(size):
    tower = Tower()
    assert not gradient(tower, [BLANK], size).isnan().any()
    torch.cat(in_chunks([], [stage(tower)], size))[:0].sum().backward()
    assert all(weight.grad is not None for weight in tower.parameters())
    frozen = Tower().requires_grad_(False)
    assert not must_touch(frozen)
    assert in_chunks([], [stage(frozen)], size) == []
    assert frozen.calls == []


def test_without_stages_items_stay_as_they_are():
    items = crops(1, 2)
    assert in_chunks(items, [], 1) == items
