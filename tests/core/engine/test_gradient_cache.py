"""The gradient cache by itself, and the contract of objectives with two parts."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import ROOT, torchrun
from torch import nn
from torch.nn import functional as F
from two_parts import CUTS, LINES, PAGES, Encoder, TwoParts, difference, make_rows, reference, regression, run_step

from polylens.contracts import Coupled, Objective, Outputs, PairTargets, Representation
from polylens.engine.accumulation import Accumulation
from polylens.engine.gradient_cache import GradientCache
from polylens.engine.training_module import TrainingModule
from polylens.objectives.contrastive import Contrastive, ContrastiveOptions


@pytest.fixture(autouse=True)
def random_state():
    """Tests that draw dropout leave the generator as they found it."""
    with torch.random.fork_rng(devices=[]):
        yield


def encoder() -> nn.Module:
    """A network of nobody in particular."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Dropout(0.1), nn.Linear(8, 3)).double()


def inputs(rows: int, seed: int) -> torch.Tensor:
    return torch.randn(rows, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


QUERIES, DOCUMENTS = inputs(5, 1), inputs(10, 2)


def in_one_graph(model: nn.Module, queries: list[torch.Tensor], documents: list[torch.Tensor]):
    """Loss and gradients of the micro-batches as one graph, drawing dropout in their order from the present state."""
    q, d = (torch.cat([F.normalize(model(part), dim=1) for part in parts]) for parts in (queries, documents))
    loss = F.cross_entropy(q @ d.T / 0.1, torch.arange(len(q)) * 2)
    return loss.detach(), torch.autograd.grad(loss, list(model.parameters()))


@pytest.mark.parametrize("rows", [1, 2, 3, 10])
def test_any_encoder_in_micro_batches_of_any_size(rows):
    model, queries, documents = encoder(), list(QUERIES.split(rows)), list(DOCUMENTS.split(rows + 1))
    torch.manual_seed(3)
    loss, wanted = in_one_graph(model, queries, documents)
    torch.manual_seed(3)
    objective = Contrastive(ContrastiveOptions(temperature=0.1))
    result = GradientCache(lambda part: F.normalize(model(part), dim=1), objective).step(
        {"query": queries, "document": documents}
    )
    assert float(result.loss) == pytest.approx(float(loss), abs=1e-12)
    assert difference([p.grad for p in model.parameters()], wanted) < 1e-10
    assert result.counts == {"query": 5, "document": 10}


def test_gradients_add_up_as_those_of_backward_do():
    model = encoder().eval()
    _, wanted = in_one_graph(model, [QUERIES], [DOCUMENTS])
    cache = GradientCache(lambda x: F.normalize(model(x), dim=1), Contrastive(ContrastiveOptions(temperature=0.1)))
    for times in (1, 2):
        cache.step({"query": QUERIES.split(2), "document": DOCUMENTS.split(4)})
        assert difference([p.grad for p in model.parameters()], [times * gradient for gradient in wanted]) < 1e-10


def test_vectors_in_any_order_find_their_place():
    """Queries and documents in one micro-batch, with positions: targets name places, not the order of making."""
    model, mixed = encoder().eval(), torch.cat([QUERIES, DOCUMENTS])
    order = torch.randperm(15, generator=torch.Generator().manual_seed(4))
    targets = PairTargets(torch.arange(5) * 2, torch.tensor([[0, 3]]))

    def encode(rows):
        vectors = F.normalize(model(mixed[rows]), dim=1)
        return {
            "query": Representation(vectors[rows < 5], rows[rows < 5]),
            "document": Representation(vectors[rows >= 5], rows[rows >= 5] - 5),
        }

    def gradients(micro_batches):
        model.zero_grad()
        cache = GradientCache(encode, Contrastive(ContrastiveOptions(temperature=0.1)))
        loss = cache.step(micro_batches, targets).loss
        return loss, [p.grad.clone() for p in model.parameters()]

    (loss, wanted), (cut_loss, found) = gradients([torch.arange(15)]), gradients(order.split(4))
    assert float(cut_loss) == pytest.approx(float(loss), abs=1e-12)
    assert difference(found, wanted) < 1e-10


def test_micro_batches_are_streamed_and_seen_once_a_pass():
    """The second pass of a step must not need the batches of the first one."""
    seen = []

    class Stream:
        def __iter__(self):
            for number in range(3):
                seen.append(number)
                yield number

    model, rows = encoder(), inputs(6, 7)

    def encode(number):
        vectors = F.normalize(model(rows[number * 2 : number * 2 + 2]), dim=1)
        return {"query": vectors[:1], "document": vectors[1:]}

    GradientCache(encode, Contrastive()).step(Stream())
    assert seen == [0, 1, 2, 0, 1, 2]


def test_the_generator_goes_on_after_a_step():
    """The second pass replays what the first one drew, and leaves the generator where the first one left it."""
    model = encoder()
    cache = GradientCache(lambda x: F.normalize(model(x), dim=1), Contrastive())
    torch.manual_seed(6)
    cache.step({"query": QUERIES.split(2), "document": DOCUMENTS.split(4)})
    after = torch.get_rng_state()
    torch.manual_seed(6)
    with torch.no_grad():
        for part in (*QUERIES.split(2), *DOCUMENTS.split(4)):
            model(part)
    assert torch.equal(after, torch.get_rng_state())


@st.composite
def cuts(draw: st.DrawFn) -> tuple[list[bool], list[int], list[list[int]]]:
    """Examples with ragged vectors, and their micro-batches, some of which are empty."""
    count = draw(st.integers(1, 7))
    pages = [True, *draw(st.lists(st.booleans(), min_size=count - 1, max_size=count - 1))]
    lines = draw(st.lists(st.integers(0, 3), min_size=count, max_size=count))
    order = draw(st.permutations(range(count)))
    borders = sorted(draw(st.lists(st.integers(0, count), max_size=4)))
    ends = zip([0, *borders], [*borders, count], strict=True)
    return pages, lines, [list(order[first:last]) for first, last in ends]


@settings(max_examples=80, deadline=None)
@given(cuts(), st.booleans(), st.booleans(), st.booleans(), st.sampled_from([0.0, 0.1]))
def test_an_objective_of_two_parts_over_ragged_vectors(drawn, places, learned, omit, dropout):
    pages, lines, cut = drawn
    omit = omit and sum(lines) > 0
    model, objective, rows = Encoder(dropout), TwoParts(places, learned, omit), make_rows(pages, lines)
    loss, wanted = reference(model, objective, rows, [cut], 0.5, seed=11)
    module = TrainingModule(model, objective)  # type: ignore[arg-type]
    result = run_step(module, objective, rows, cut, 0.5, Accumulation(), seed=11)
    assert float(result.loss) == pytest.approx(float(loss), abs=1e-11)
    trained = [*model.parameters(), *objective.parameters().values()]
    assert difference([parameter.grad for parameter in trained], wanted) < 1e-10
    assert result.metrics == {"pages": sum(pages)}
    assert result.counts["tokens"] == sum(len(row.features) for row in rows)


def test_the_same_on_two_ranks():
    ranks = torchrun(ROOT / "tests" / "two_parts.py", timeout=120)
    assert all(rank.output.count("at most 1e-10") == 3 * len(CUTS) for rank in ranks)


class Regression(Objective):
    """An additive part alone."""

    normalisers = TwoParts.normalisers
    additive = TwoParts.additive

    def __init__(self) -> None:
        self.batches = 0

    def representations(self, outputs, batch):
        raise AssertionError("an objective without a coupled part has no representations")


@pytest.mark.parametrize("cut", [[[0, 1, 2, 3, 4, 5, 6]], [[5, 1], [], [0, 2, 3, 4], [6]]])
def test_an_additive_part_alone_needs_one_pass(cut):
    model, rows, calls = Encoder(), make_rows(PAGES, LINES), []

    def encode(batch) -> Outputs:
        calls.append(torch.is_grad_enabled())
        return model(batch)

    result = GradientCache(encode, Regression()).step(iter([[rows[i] for i in part] for part in cut]))
    loss = regression(model(rows).hidden, rows) / sum(len(row.features) for row in rows)
    wanted = torch.autograd.grad(loss, list(model.parameters()))
    assert float(result.loss) == pytest.approx(loss.item(), abs=1e-12)
    assert difference([p.grad for p in model.parameters()], wanted) < 1e-10
    assert calls == [True] * len(cut)


def test_a_micro_batch_that_gives_nothing_is_told():
    """It has no backward pass, for which DDP would wait for ever."""
    weight = torch.ones(3, requires_grad=True)
    parts = [{"query": weight[None], "document": 2 * weight[None]}, {}]
    with pytest.raises(ValueError, match=r"gave no representation; .* shape \[0, D\]"):
        GradientCache(lambda part: part, Contrastive()).step(parts)


def place(values: torch.Tensor, *positions: int) -> dict[str, Representation]:
    return {"query": Representation(values, torch.tensor(positions)), "document": Representation(values)}


WRONG = {
    "are not a permutation of 0 to 1": [place(torch.eye(2), 0, 2)],
    "'query' are not a permutation": [place(torch.eye(2)[:1], 1), place(torch.eye(2)[:1], 1)],
    "some micro-batches give positions for representation 'query', and some do not": [
        place(torch.eye(2)[:1], 0),
        {"query": torch.eye(2)[:1]},
    ],
    "at least one micro-batch on every rank": [],
}


@pytest.mark.parametrize("message", WRONG)
def test_what_cannot_be_put_in_order_is_refused(message):
    with pytest.raises(ValueError, match=message):
        GradientCache(lambda part: part, Contrastive()).step(WRONG[message])


def test_a_tensor_needs_a_name():
    with pytest.raises(TypeError, match="a mapping from names to micro-batches"):
        GradientCache(nn.Linear(5, 3).double(), Contrastive()).step([QUERIES])


def test_an_objective_that_forgot_its_method_is_named():
    class Forgetful(Objective):
        is_coupled = True

    with pytest.raises(TypeError, match="Forgetful says it is coupled"):
        GradientCache(lambda part: part, Forgetful()).step({"query": [torch.eye(2)]})


def test_vectors_of_half_precision_are_compared_in_full():
    """What the objective sees is float32, what the encoder gets back has its own type."""

    class Seen(Objective):
        is_coupled = True
        types: tuple[torch.dtype, ...] = ()

        def coupled(self, representations, own, targets, parameters):
            values = representations["page"]
            self.types += (values.dtype,)
            return Coupled(values.sum(), {"page": torch.ones_like(values)})

    layer, objective = nn.Linear(4, 2).bfloat16(), Seen()
    GradientCache(layer, objective).step({"page": [torch.ones(3, 4, dtype=torch.bfloat16)]})
    assert objective.types == (torch.float32,)
    torch.testing.assert_close(layer.bias.grad, torch.full((2,), 3.0, dtype=torch.bfloat16))


def test_several_ranks_must_say_how_gradients_are_summed(monkeypatch):
    monkeypatch.setattr("polylens.engine.distributed.world_size", lambda: 2)
    with pytest.raises(ValueError, match=r"pass accumulation=accumulation_for\(model\)"):
        GradientCache(nn.Linear(5, 3), Contrastive())
