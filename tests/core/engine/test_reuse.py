"""What the gradient cache does not compute twice: kept graphs, and outputs of frozen modules."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from two_parts import difference

from polylens.engine.accumulation import Accumulation
from polylens.engine.frozen import FrozenOutputs
from polylens.engine.gradient_cache import GradientCache
from polylens.objectives.contrastive import Contrastive, ContrastiveOptions

SIZE = 6
ROWS = torch.randn(12, SIZE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
PARTS = {"query": ROWS[:6].split(2), "document": ROWS[6:].split(2)}
COUNT = 6


@pytest.fixture(autouse=True)
def random_state():
    with torch.random.fork_rng(devices=[]):
        yield


class Block(nn.Module):
    """Counts its calls, and drops out."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.dropout, self.calls = nn.Linear(SIZE, SIZE), nn.Dropout(0.2), 0

    def forward(self, x: Tensor, shift: Tensor | None = None) -> Tensor:
        self.calls += 1
        return self.dropout(torch.tanh(self.linear(x))) + (0 if shift is None else shift)


class Encoder(nn.Module):
    """Four blocks, of which the numbered ones are frozen; unit vectors."""

    def __init__(self, frozen: tuple[int, ...]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList(Block() for _ in range(4))
        for number in frozen:
            self.blocks[number].requires_grad_(False)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return F.normalize(x, dim=1)

    @property
    def calls(self) -> list[int]:
        return [block.calls for block in self.blocks]  # type: ignore[misc]


def trained(model: nn.Module) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]


def objective() -> Contrastive:
    return Contrastive(ContrastiveOptions(temperature=0.1))


def wanted_gradient(model: nn.Module) -> list[Tensor]:
    """Of one graph over the micro-batches in their order, drawing dropout from the present state."""
    q, d = (torch.cat([model(part) for part in PARTS[name]]) for name in ("query", "document"))
    loss = F.cross_entropy(q @ d.T / 0.1, torch.arange(len(q)))
    return list(torch.autograd.grad(loss, trained(model)))


def check(model: Encoder, steps: int = 3, **reuse) -> list[list[int]]:
    """That the gradient is exact in every step; returns how often each block was called in each."""
    cache, counts = GradientCache(model, objective(), **reuse), []
    for seed in range(steps):
        torch.manual_seed(seed)
        wanted = wanted_gradient(model)
        model.zero_grad()
        for block in model.blocks:
            block.calls = 0
        torch.manual_seed(seed)
        cache.step(PARTS)
        assert difference([p.grad for p in trained(model)], wanted) < 1e-10
        counts.append(model.calls)
    return counts


def graph_bytes() -> int:
    """Of one micro-batch."""
    from polylens.engine.graph_memory import GraphMemory

    model = Encoder(())
    with GraphMemory() as memory:
        model(PARTS["query"][0])
    return memory.bytes


@pytest.mark.parametrize("graphs", [0, 1, 3, COUNT])
def test_kept_graphs_need_no_second_forward(graphs):
    calls = check(Encoder(()), graph_bytes=graphs * graph_bytes())
    assert calls == [[2 * COUNT - graphs] * 4] * 3


def test_a_graph_that_does_not_fit_is_dropped():
    assert check(Encoder(()), steps=1, graph_bytes=graph_bytes() - 1) == [[2 * COUNT] * 4]


def test_graphs_count_what_autograd_saves_but_no_weights():
    x, weight = torch.ones(100, requires_grad=True), nn.Parameter(torch.ones(1000, 100))
    from polylens.engine.graph_memory import GraphMemory

    with GraphMemory() as memory:
        F.linear(x[None], weight).exp().sum()
    assert memory.bytes == 100 * 4 + 1000 * 4


def test_an_accumulation_that_cannot_keep_graphs_refuses():
    accumulation = Accumulation()
    accumulation.keeps_graphs = False
    with pytest.raises(ValueError, match="boundaries cannot keep graphs"):
        GradientCache(Encoder(()), objective(), accumulation=accumulation, graph_bytes=1)


def test_what_needs_a_fresh_last_forward_gets_one():
    accumulation = Accumulation()
    accumulation.last_forward_is_fresh = True
    assert check(Encoder(()), steps=1, accumulation=accumulation, graph_bytes=10**9) == [[COUNT + 1] * 4]


def test_frozen_modules_below_trained_ones_are_computed_once():
    model = Encoder((0, 1))
    calls = check(model, frozen=FrozenOutputs(model, 10**6))
    assert calls == [[COUNT, COUNT, 2 * COUNT, 2 * COUNT]] * 3


def test_of_a_chain_the_last_output_alone_is_kept():
    model = Encoder((0, 1))
    frozen, kept = FrozenOutputs(model, 10**6), []
    for _ in range(2):
        cache = GradientCache(model, objective(), frozen=frozen)
        cache.step(PARTS)
        kept.append(frozen.bytes)
    assert kept == [2 * ROWS.nbytes, ROWS.nbytes]


def test_frozen_modules_above_trained_ones_pass_gradients_on():
    model = Encoder((0, 2))
    calls = check(model, frozen=FrozenOutputs(model, 10**6))
    assert calls == [[COUNT, 2 * COUNT, 2 * COUNT, 2 * COUNT]] * 3


def test_micro_batches_beyond_the_budget_are_computed_twice():
    model = Encoder((0,))
    calls = check(model, frozen=FrozenOutputs(model, 3 * PARTS["query"][0].nbytes))
    assert calls == [[2 * COUNT - 3, 2 * COUNT, 2 * COUNT, 2 * COUNT]] * 3


def test_graphs_and_frozen_outputs_together():
    model = Encoder((0, 1))
    calls = check(model, graph_bytes=2 * graph_bytes(), frozen=FrozenOutputs(model, 10**6))
    assert all(counts[:2] == [COUNT, COUNT] and COUNT < counts[2] < 2 * COUNT for counts in calls)


def test_an_output_that_is_changed_in_place_is_kept_as_it_was():
    class InPlace(Encoder):
        def forward(self, x: Tensor) -> Tensor:
            x = self.blocks[0](x)
            x += 1
            return F.normalize(self.blocks[1](x), dim=1)

    model = InPlace((0, 2, 3))
    model.blocks[2:].requires_grad_(False)
    with torch.no_grad():
        for block in model.blocks[2:]:
            block.linear.weight.zero_()
    frozen = FrozenOutputs(model, 10**6)
    cache = GradientCache(model, objective(), frozen=frozen)
    torch.manual_seed(0)
    wanted = list(torch.autograd.grad(_loss(model), trained(model)))
    torch.manual_seed(0)
    cache.step(PARTS)
    assert difference([p.grad for p in trained(model)], wanted) < 1e-10


def _loss(model: nn.Module) -> Tensor:
    q, d = (torch.cat([model(part) for part in PARTS[name]]) for name in ("query", "document"))
    return F.cross_entropy(q @ d.T / 0.1, torch.arange(len(q)))


def test_an_output_that_is_read_elsewhere_is_kept():
    """The second frozen block reads the first one's output, and so does a trained one."""

    class Skip(Encoder):
        def forward(self, x: Tensor) -> Tensor:
            first = self.blocks[0](x)
            return F.normalize(self.blocks[2](self.blocks[1](first)) + self.blocks[3](first), dim=1)

    model = Skip((0, 1))
    calls = check(model, frozen=FrozenOutputs(model, 10**6))
    assert calls == [[COUNT, COUNT, 2 * COUNT, 2 * COUNT]] * 3


def test_an_input_that_carries_a_gradient_for_the_first_time_is_refused():
    class Turning(Encoder):
        attached = False

        def forward(self, x: Tensor) -> Tensor:
            x = self.blocks[0](x)
            return F.normalize(self.blocks[3](self.blocks[1](x, self.blocks[2](x) if self.attached else None)), dim=1)

    model = Turning((0, 1))
    frozen = FrozenOutputs(model, 10**6)
    GradientCache(model, objective(), frozen=frozen).step(PARTS)
    model.attached = True
    with pytest.raises(RuntimeError, match=r"blocks.1 got an input with a gradient.*frozen_cache_gb"):
        GradientCache(model, objective(), frozen=frozen).step(PARTS)
    assert all("forward" not in block.__dict__ for block in model.blocks)


def test_vectors_that_differ_between_the_passes_are_refused():
    model, own = Encoder(()), torch.Generator().manual_seed(0)

    def encode(rows: Tensor) -> Tensor:
        return model(rows + torch.randn(rows.shape, generator=own, dtype=rows.dtype))

    with pytest.raises(RuntimeError, match="second forward pass gave other vectors"):
        GradientCache(encode, objective()).step(PARTS)


def test_vectors_that_are_not_numbers_show_in_the_loss():
    model = Encoder(())
    with torch.no_grad():
        model.blocks[0].linear.weight.fill_(torch.nan)
    assert torch.isnan(GradientCache(model, objective()).step(PARTS).loss)
