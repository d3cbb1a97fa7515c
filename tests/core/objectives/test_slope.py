"""The gradient of an objective against differences of its loss."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from polylens.contracts import PairTargets
from polylens.objectives.contrastive import Contrastive, ContrastiveOptions
from polylens.objectives.slope import gradient_error

TARGETS = PairTargets(torch.tensor([0, 2, 4, 6]), torch.tensor([[3, 2], [1, 6]]))

OPTIONS = {
    "fixed": {"temperature": 0.02},
    "symmetric": {"symmetric": True, "temperature": 0.1},
    "learned": {"learned_temperature": True, "temperature": 0.05},
    "at the largest learned scale": {"learned_temperature": True, "temperature": 0.01},
    "matryoshka": {"matryoshka_dims": [4, 16], "temperature": 0.1},
    "unnormalised": {"normalize": False, "temperature": 10.0},
}


def vectors(length: float = 1.0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    rows = {"query": 4, "document": 8}
    return {name: length * F.normalize(torch.randn(n, 16, generator=generator), dim=1) for name, n in rows.items()}


def parameters(objective: Contrastive) -> dict[str, torch.Tensor]:
    return {name: value.detach() for name, value in objective.parameters().items()}


@pytest.mark.parametrize("case", OPTIONS)
def test_a_right_gradient(case):
    objective = Contrastive(ContrastiveOptions(**OPTIONS[case]))
    made = vectors(1.0 if objective.options.normalize else 7.0)
    assert gradient_error(objective, made, TARGETS, parameters(objective)) < 1e-5


def test_a_loss_of_almost_nothing_is_not_blamed_for_rounding():
    query = vectors()["query"]
    objective = Contrastive(ContrastiveOptions(temperature=0.01))
    assert gradient_error(objective, {"query": query, "document": query}) < 1e-3


class Wrong(Contrastive):
    """Gives a gradient that ``change`` has altered."""

    def __init__(self, change) -> None:
        super().__init__(ContrastiveOptions(learned_temperature=True, temperature=0.1))
        self.change = change

    def coupled(self, *args, **options):
        found = super().coupled(*args, **options)
        self.change(found)
        return found


WRONG = {
    "scaled by 1.01": lambda found: found.gradients["query"].mul_(1.01),
    "one document left out": lambda found: found.gradients["document"][3].zero_(),
    "documents left out": lambda found: found.gradients.pop("document"),
    "something added": lambda found: found.gradients["query"].add_(torch.linspace(-0.01, 0.01, 16)),
    "temperature of the wrong sign": lambda found: found.parameter_gradients["log_scale"].neg_(),
    "temperature left out": lambda found: found.parameter_gradients.clear(),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_gradient(case):
    objective = Wrong(WRONG[case])
    assert gradient_error(objective, vectors(), TARGETS, parameters(objective)) > 2e-3


def test_no_random_number_is_drawn_from_the_generator_of_the_run():
    before = torch.get_rng_state()
    gradient_error(Contrastive(), vectors(), TARGETS)
    assert torch.equal(torch.get_rng_state(), before)
