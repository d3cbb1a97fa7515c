"""Loss and gradients of the contrastive objective against one dense graph in float64."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from polylens.contracts import Batch, Outputs, PairTargets
from polylens.errors import InputError
from polylens.objectives import build
from polylens.objectives.contrastive import MAX_SCALE, Contrastive, ContrastiveOptions, loss_and_gradients


@dataclass
class Problem:
    """A global batch with its options; ``log_scale`` is the value of a learned temperature."""

    queries: Tensor
    documents: Tensor
    targets: PairTargets
    options: dict[str, Any]
    log_scale: Tensor | None

    @property
    def vectors(self) -> dict[str, Tensor]:
        return {"query": self.queries, "document": self.documents}

    @property
    def objective(self) -> Contrastive:
        return Contrastive(ContrastiveOptions(**self.options))

    def coupled(self, own: dict[str, Tensor] | None = None):
        own = own or {name: torch.arange(len(vectors)) for name, vectors in self.vectors.items()}
        parameters = {} if self.log_scale is None else {"log_scale": self.log_scale}
        return self.objective.coupled(self.vectors, own, self.targets, parameters)


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    queries, size = draw(st.integers(1, 6)), draw(st.integers(2, 6))
    documents = queries + draw(st.integers(0, 8))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    normalize, learned = draw(st.booleans()), draw(st.booleans())
    values = torch.randn(queries + documents, size, generator=generator, dtype=torch.float64)
    values = F.normalize(values, dim=1) if normalize else values
    positive = torch.randperm(documents, generator=generator)[:queries]
    places = st.tuples(st.integers(0, queries - 1), st.integers(0, documents - 1))
    others = [(i, j) for i, j in draw(st.lists(places, max_size=12)) if positive[i] != j]
    dims = draw(st.none() | st.lists(st.integers(1, size), min_size=1, max_size=3, unique=True))
    weights = draw(st.none() | st.lists(st.floats(0.1, 3), min_size=len(dims), max_size=len(dims))) if dims else None
    options = {
        "temperature": draw(st.floats(0.05, 2)),
        "learned_temperature": learned,
        "symmetric": draw(st.booleans()),
        "normalize": normalize,
        "matryoshka_dims": dims,
        "matryoshka_weights": weights,
        "false_negatives": draw(st.sampled_from(["mask", "keep"])),
        "tile_rows": draw(st.integers(1, documents + 1)),
    }
    scale = torch.tensor([draw(st.floats(-1, math.log(MAX_SCALE) + 1))], dtype=torch.float64) if learned else None
    ignore = torch.tensor(others, dtype=torch.long).reshape(-1, 2)
    return Problem(values[:queries], values[queries:], PairTargets(positive, ignore), options, scale)


def dense(problem: Problem) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss as its definition says, and its derivatives by autograd."""
    options, targets = problem.objective.options, problem.targets
    leaves = {name: vectors.clone().requires_grad_() for name, vectors in problem.vectors.items()}
    if problem.log_scale is not None:
        leaves["log_scale"] = problem.log_scale.clone().requires_grad_()
        scale = leaves["log_scale"].clamp(max=math.log(MAX_SCALE)).exp()
    else:
        scale = torch.tensor(1 / options.temperature, dtype=torch.float64)
    sizes = options.matryoshka_dims or [problem.queries.shape[1]]
    weights = options.matryoshka_weights or [1.0] * len(sizes)
    loss = torch.zeros((), dtype=torch.float64)
    for size, weight in zip(sizes, weights, strict=True):
        q, d = leaves["query"][:, :size], leaves["document"][:, :size]
        if options.normalize and options.matryoshka_dims:
            q, d = F.normalize(q, dim=1), F.normalize(d, dim=1)
        logits = scale * (q @ d.T)
        if options.false_negatives == "mask":
            logits = logits.index_put(tuple(targets.ignore.T), torch.tensor(-torch.inf, dtype=torch.float64))
        part = F.cross_entropy(logits, targets.positive)
        if options.symmetric:
            part = (part + F.cross_entropy(logits.T[targets.positive], torch.arange(len(q)))) / 2
        loss = loss + weight / sum(weights) * part
    gradients = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True, materialize_grads=True)
    return loss.detach(), dict(zip(leaves, gradients, strict=True))


def assert_same(found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-11)


@settings(max_examples=150, deadline=None)
@given(problems())
def test_equals_one_dense_graph(problem):
    loss, wanted = dense(problem)
    found = problem.coupled()
    assert_same(found.loss, loss)
    for name, gradient in {**found.gradients, **found.parameter_gradients}.items():
        assert_same(gradient, wanted.pop(name))
    assert not wanted


@settings(max_examples=60, deadline=None)
@given(problems(), st.integers(1, 4), st.integers(0, 10**6))
def test_shares_of_ranks_add_up_to_the_whole(problem, ranks, seed):
    """Whoever made which vectors, and whether a rank made any."""
    generator = torch.Generator().manual_seed(seed)
    owners = {n: torch.randint(ranks, (len(v),), generator=generator) for n, v in problem.vectors.items()}
    shares = [
        problem.coupled({name: (owner == rank).nonzero().flatten() for name, owner in owners.items()})
        for rank in range(ranks)
    ]
    whole = problem.coupled()
    assert_same(torch.stack([share.loss for share in shares]).sum(0), whole.loss)
    for part in ("gradients", "parameter_gradients", "metrics"):
        for name, value in getattr(whole, part).items():
            assert_same(torch.stack([getattr(share, part)[name] for share in shares]).sum(0), value)


@settings(max_examples=40, deadline=None)
@given(problems())
def test_a_rank_that_made_nothing_has_no_share(problem):
    nothing = torch.empty(0, dtype=torch.long)
    share = problem.coupled({"query": nothing, "document": nothing})
    figures = [share.loss, *share.gradients.values(), *share.parameter_gradients.values(), *share.metrics.values()]
    assert not any(figure.any() for figure in figures)
    assert {name: gradient.shape for name, gradient in share.gradients.items()} == {
        name: vectors.shape for name, vectors in problem.vectors.items()
    }


def test_false_negatives_leave_both_denominators():
    """Query 0 and document 1 are the same direction: masked, they do not repel each other."""
    vectors = torch.eye(3, dtype=torch.float64)[[0, 1, 0, 1, 0]]
    queries, documents = vectors[:2], vectors[[2, 4]]
    targets = PairTargets(torch.tensor([0, 1]), torch.tensor([[0, 1]]))
    losses = {
        (kind, symmetric): float(
            loss_and_gradients(
                queries, documents, targets, temperature=1.0, false_negatives=kind, symmetric=symmetric
            ).loss
        )
        for kind in ("mask", "keep")
        for symmetric in (False, True)
    }
    log2, one = math.log(2), math.log(1 + math.e)
    # Masked, query 0 sees document 0 alone and document 1 sees query 1 alone; query 1 is as far from both documents.
    assert losses["mask", False] == pytest.approx((0 + log2) / 2)
    assert losses["keep", False] == pytest.approx((log2 + log2) / 2)
    assert losses["mask", True] == pytest.approx((0 + log2 + (one - 1) + 0) / 4)
    assert losses["keep", True] == pytest.approx((log2 + log2 + (one - 1) + one) / 4)


def test_documents_in_blocks_are_a_positive_and_its_hard_negatives():
    generator = torch.Generator().manual_seed(0)
    queries, documents = (torch.randn(n, 4, generator=generator, dtype=torch.float64) for n in (3, 6))
    blocks = loss_and_gradients(queries, documents, temperature=1.0)
    named = PairTargets(torch.tensor([0, 2, 4]), torch.empty(0, 2, dtype=torch.long))
    assert torch.equal(blocks.loss, loss_and_gradients(queries, documents, named, temperature=1.0).loss)
    with pytest.raises(ValueError, match="5 documents for 3 queries: give targets"):
        loss_and_gradients(queries, documents[:5])


def test_accuracy_counts_the_queries_that_find_their_document():
    queries, documents = torch.eye(4), torch.eye(4)[[0, 1, 3, 2]]
    assert float(loss_and_gradients(queries, documents, tile_rows=3).metrics["accuracy"]) == 0.5


def test_accuracy_is_that_of_the_largest_size():
    """On the first dimension alone both queries are the same."""
    vectors = torch.tensor([[1.0, 1.0], [1.0, -1.0]])
    assert float(loss_and_gradients(vectors, vectors, matryoshka_dims=[2, 1]).metrics["accuracy"]) == 1


def test_a_masked_document_is_no_miss():
    queries, documents = torch.eye(2)[:1], torch.tensor([[0.5, 0.5], [1.0, 0.0]])
    targets = PairTargets(torch.tensor([0]), torch.tensor([[0, 1]]))
    assert float(loss_and_gradients(queries, documents, targets).metrics["accuracy"]) == 1
    kept = loss_and_gradients(queries, documents, targets, false_negatives="keep")
    assert float(kept.metrics["accuracy"]) == 0


@pytest.mark.parametrize(("log_scale", "moves"), [(1.0, True), (math.log(MAX_SCALE), True), (5.0, False)])
def test_a_learned_temperature_is_held_at_its_floor(log_scale, moves):
    """In float32, where the logarithm of 100 is not exact: a run that starts at 0.01 must be able to leave it."""
    objective = Contrastive(ContrastiveOptions(temperature=0.5, learned_temperature=True))
    vectors = F.normalize(torch.randn(4, 3, generator=torch.Generator().manual_seed(1)), dim=1)
    own = {name: torch.arange(4) for name in ("query", "document")}
    made = {"query": vectors, "document": vectors.flip(0)}
    found = objective.coupled(made, own, parameters={"log_scale": torch.tensor([log_scale])})
    assert bool(found.parameter_gradients["log_scale"].any()) == moves
    fixed = loss_and_gradients(vectors, vectors.flip(0), temperature=max(math.exp(-log_scale), 1 / MAX_SCALE))
    torch.testing.assert_close(found.loss, fixed.loss)


def test_a_learned_temperature_starts_where_the_option_says():
    learned = Contrastive(ContrastiveOptions(temperature=0.05, learned_temperature=True))
    assert learned.parameters()["log_scale"].exp().item() == pytest.approx(20)
    assert Contrastive(ContrastiveOptions()).parameters() == {}


@pytest.mark.parametrize("normalize", [True, False])
def test_rows_become_vectors_by_their_role(normalize):
    batch = Batch(
        ids=list("abcd"),
        input_ids=torch.zeros(4, 2, dtype=torch.long),
        attention_mask=torch.tensor([[1, 1], [1, 0], [1, 1], [1, 0]]).bool(),
        labels=torch.zeros(4, 2, dtype=torch.long),
        visual_mask=torch.zeros(4, 2, dtype=torch.bool),
        pixels=[],
        crop_rows=torch.empty(0, dtype=torch.long),
        crop_tokens=torch.empty(0, dtype=torch.long),
        costs=torch.tensor([2, 1, 2, 1]),
        rows={"role": torch.tensor([1, 0, -1, 1]), "position": torch.tensor([4, 7, -1, 2])},
    )
    hidden = torch.arange(16.0).reshape(4, 2, 2) + 1
    made = Contrastive(ContrastiveOptions(pooling="last", normalize=normalize)).representations(
        Outputs(hidden=hidden), batch
    )
    expected = {"query": hidden[[1], [0]], "document": hidden[[0, 3], [1, 0]]}
    for name, vectors in expected.items():
        torch.testing.assert_close(made[name].values, F.normalize(vectors, dim=1) if normalize else vectors)
    assert made["query"].positions.tolist() == [7]
    assert made["document"].positions.tolist() == [4, 2]


BAD_OPTIONS = {
    "temperature is 0": {"temperature": 0},
    "temperature is nan": {"temperature": math.nan},
    "a learned one must start at 0.01 or above": {"temperature": 0.005, "learned_temperature": True},
    "tile_rows is 0": {"tile_rows": 0},
    r"matryoshka_dims is \[4, 0\]": {"matryoshka_dims": [4, 0]},
    "one weight for each of matryoshka_dims": {"matryoshka_dims": [4, 2], "matryoshka_weights": [1.0]},
    "every weight must be above 0": {"matryoshka_dims": [4], "matryoshka_weights": [0.0]},
    "'pooling' is 'max'": {"pooling": "max"},
    "'false_negatives' is 'drop'": {"false_negatives": "drop"},
    r"no option 'temprature' \(did you mean 'temperature'\?\)": {"temprature": 1},
}


@pytest.mark.parametrize("message", BAD_OPTIONS)
def test_an_option_that_makes_no_sense_is_named(message):
    with pytest.raises(InputError, match=f"^objective 'contrastive'.*{message}"):
        build("contrastive", BAD_OPTIONS[message])


def test_sizes_beyond_the_vectors_are_refused():
    with pytest.raises(InputError, match="matryoshka_dims has 8, and vectors have 4 dimensions"):
        loss_and_gradients(torch.eye(4), torch.eye(4), matryoshka_dims=[8, 2])


def test_symmetric_needs_a_document_for_every_query():
    targets = PairTargets(torch.tensor([0, 0]), torch.empty(0, 2, dtype=torch.long))
    with pytest.raises(ValueError, match="a document of its own for every query"):
        loss_and_gradients(torch.eye(2), torch.eye(2), targets, symmetric=True)


def test_a_name_that_the_core_does_not_have():
    assert build("contrast", {}) is None
