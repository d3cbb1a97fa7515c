"""A toy objective that uses the whole contract, and its gradient from one graph in float64.

The additive part is a regression of every token, divided by the number of tokens of the global batch. The coupled
part ties pages to lines: an example has at most one page, and any number of lines, none included.

Run as a script by every rank, it prints one line a case and ends with an error if a case is not exact.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from polylens.contracts import Coupled, Objective, Outputs, Representation
from polylens.engine.accumulation import Accumulation, accumulation_for
from polylens.engine.gradient_cache import GradientCache, StepResult
from polylens.engine.training_module import TrainingModule

SIZE, WIDTH = 4, 3
NAMES = ("page", "line")


@dataclass(frozen=True)
class Row:
    """An example: features and targets of its tokens, and where its vectors stand in the global batch."""

    features: Tensor
    targets: Tensor
    places: Mapping[str, tuple[int, ...]]


def make_rows(pages: Sequence[bool], lines: Sequence[int]) -> list[Row]:
    """Rows of ragged lengths; vectors stand in an order that is not the one in which they are made."""
    generator = torch.Generator().manual_seed(5)
    places = {"page": iter(torch.randperm(sum(pages), generator=generator).tolist())}
    places["line"] = iter(torch.randperm(sum(lines), generator=generator).tolist())
    rows = []
    for i, (page, count) in enumerate(zip(pages, lines, strict=True)):
        tokens = torch.randn(2 + i % 3 + count, SIZE + WIDTH, generator=generator, dtype=torch.float64)
        own = {name: tuple(next(places[name]) for _ in range(n)) for name, n in (("page", int(page)), ("line", count))}
        rows.append(Row(tokens[:, :SIZE], tokens[:, SIZE:], own))
    return rows


class Encoder(nn.Module):
    """Hidden states of the tokens of a list of rows, one after the other."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(9)
        self.layers = nn.Sequential(nn.Linear(SIZE, 6), nn.Tanh(), nn.Dropout(dropout), nn.Linear(6, WIDTH)).double()
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)

    def forward(self, rows: Sequence[Row], outputs: frozenset[str] = frozenset({"hidden"})) -> Outputs:
        features = [row.features for row in rows] or [torch.zeros(0, SIZE, dtype=torch.float64)]
        return Outputs(hidden=self.layers(torch.cat(features)))


class TwoParts(Objective):
    """See the module.

    Args:
        places: tell the places of vectors.
        learned: learn the scale of the coupled part.
        omit: leave out a name that has no vectors, rather than give an empty tensor.
    """

    is_coupled = True
    records = "pairs"

    def __init__(self, places: bool = True, learned: bool = True, omit: bool = False) -> None:
        self.places, self.omit = places, omit
        self._scale = nn.Parameter(torch.tensor([0.4], dtype=torch.float64), requires_grad=learned)

    def parameters(self) -> dict[str, nn.Parameter]:
        return {"scale": self._scale} if self._scale.requires_grad else {}

    def normalisers(self, batch: Sequence[Row]) -> dict[str, float]:
        return {"tokens": sum(len(row.features) for row in batch)}

    def additive(self, outputs: Outputs, batch: Sequence[Row], normalisers: Mapping[str, float]) -> Tensor:
        return regression(outputs.hidden, batch) / normalisers["tokens"]

    def representations(self, outputs: Outputs, batch: Sequence[Row]) -> dict[str, Representation]:
        found = {}
        for name, vectors in vectors_of(outputs.hidden, batch).items():
            places = torch.tensor([place for row in batch for place in row.places[name]], dtype=torch.long)
            if len(vectors) or not self.omit:
                found[name] = Representation(vectors, places if self.places else None)
        return found

    def coupled(
        self,
        representations: Mapping[str, Tensor],
        own: Mapping[str, Tensor],
        targets: float | None,
        parameters: Mapping[str, Tensor],
    ) -> Coupled:
        scale = parameters.get("scale", self._scale).detach().requires_grad_()
        leaves = {name: vectors.detach().requires_grad_() for name, vectors in representations.items()}
        with torch.enable_grad():
            terms = page_terms(leaves, scale, targets)
            loss = terms[own["page"]].sum()
            gradients = torch.autograd.grad(loss, [*leaves.values(), scale], allow_unused=True, materialize_grads=True)
        *of_vectors, of_scale = gradients
        metrics = {"pages": torch.tensor(float(len(own["page"])))}
        return Coupled(
            loss.detach(),
            dict(zip(leaves, of_vectors, strict=True)),
            {"scale": of_scale} if self.parameters() else {},
            metrics,
        )


def regression(hidden: Tensor | None, rows: Sequence[Row]) -> Tensor:
    assert hidden is not None
    targets = [row.targets for row in rows] or [hidden.new_zeros(0, WIDTH)]
    return (hidden - torch.cat(targets)).pow(2).sum()


def vectors_of(hidden: Tensor | None, rows: Sequence[Row]) -> dict[str, Tensor]:
    """The page is the mean of the tokens, a line is one of the last tokens."""
    assert hidden is not None
    made: dict[str, list[Tensor]] = {name: [hidden.new_zeros(0, WIDTH)] for name in NAMES}
    for row, part in zip(rows, hidden.split([len(row.features) for row in rows]) if rows else (), strict=True):
        made["page"] += [part.mean(dim=0, keepdim=True)] * len(row.places["page"])
        made["line"].append(part[len(part) - len(row.places["line"]) :])
    return {name: torch.cat(parts) for name, parts in made.items()}


def page_terms(vectors: Mapping[str, Tensor], scale: Tensor, targets: float | None) -> Tensor:
    """[pages], a part of the loss for each page, in which places matter: a wrong order gives another loss."""
    pages, lines = vectors["page"], vectors["line"]
    weights = torch.arange(1, len(pages) + 1, dtype=torch.float64) * (targets or 1.0)
    ramp = torch.arange(1, len(lines) + 1, dtype=torch.float64).log()
    rest = torch.cat([scale.exp() * pages @ lines.T + ramp, pages.sum(dim=1, keepdim=True)], dim=1)
    return weights * rest.logsumexp(dim=1) / len(pages)


Cut = Sequence[Sequence[Sequence[int]]]
"""Rank -> micro-batch -> row numbers."""


def reference(
    model: Encoder, objective: TwoParts, rows: Sequence[Row], cut: Cut, targets: float | None, seed: int
) -> tuple[Tensor, list[Tensor]]:
    """Loss, and derivatives by the weights and the scale, from one graph over the micro-batches of all ranks."""
    made: dict[str, list[Tensor]] = {name: [] for name in NAMES}
    places: dict[str, list[int]] = {name: [] for name in NAMES}
    additive = torch.zeros((), dtype=torch.float64)
    for rank, micro_batches in enumerate(cut):
        torch.manual_seed(seed + rank)
        for part in micro_batches:
            chosen = [rows[i] for i in part]
            hidden = model(chosen).hidden
            additive = additive + regression(hidden, chosen)
            for name, vectors in vectors_of(hidden, chosen).items():
                made[name].append(vectors)
                places[name] += [place for row in chosen for place in row.places[name]]
    vectors = {name: torch.cat(parts) for name, parts in made.items()}
    if objective.places:
        vectors = {name: v[torch.tensor(places[name], dtype=torch.long).argsort()] for name, v in vectors.items()}
    loss = page_terms(vectors, objective._scale, targets).sum() + additive / sum(len(row.features) for row in rows)
    trained = [*model.parameters(), *objective.parameters().values()]
    return loss.detach(), list(torch.autograd.grad(loss, trained, allow_unused=True, materialize_grads=True))


def difference(found: Sequence[Tensor | None], wanted: Sequence[Tensor]) -> float:
    """Relative error in the global L2 norm."""
    pairs = [(torch.zeros_like(w) if f is None else f, w) for f, w in zip(found, wanted, strict=True)]
    return float(sum((f - w).pow(2).sum() for f, w in pairs) ** 0.5 / sum(w.pow(2).sum() for _, w in pairs) ** 0.5)


def run_step(
    module: Any, objective: TwoParts, rows: Sequence[Row], own: Sequence[Sequence[int]], targets: float | None,
    accumulation: Accumulation, seed: int,
) -> StepResult:  # fmt: skip
    torch.manual_seed(seed)
    cache = GradientCache.of_module(module, objective, accumulation)
    return cache.step([[rows[i] for i in part] for part in own], targets)


PAGES, LINES = (True, True, False, True, True, False, True), (2, 0, 1, 3, 0, 0, 1)
CUTS: dict[str, Cut] = {
    "even": [[[0, 1], [2, 3]], [[4, 5], [6]]],
    "ragged": [[[6, 2, 0], [5, 3]], [[1], [4]]],  # rank 1 has no line
    "empty micro-batches": [[[3, 0], []], [[], [1, 2, 4, 5, 6]]],
    "nothing on rank 1": [[[0, 1, 2, 3, 4, 6], []], [[5], []]],  # neither a page nor a line
}


def exactness(cut: Cut, dropout: float, objective: TwoParts) -> float:
    rows, rank = make_rows(PAGES, LINES), dist.get_rank()
    model = Encoder(dropout)
    loss, wanted = reference(copy.deepcopy(model), objective, rows, cut, 0.5, seed=100)
    wrapped = nn.parallel.DistributedDataParallel(TrainingModule(model, objective))  # type: ignore[arg-type]
    result = run_step(wrapped, objective, rows, cut[rank], 0.5, accumulation_for(wrapped), seed=100 + rank)
    assert abs(float(result.loss - loss)) < 1e-12
    assert result.metrics == {"pages": sum(PAGES)}
    assert result.counts == {"page": sum(PAGES), "line": sum(LINES), "tokens": sum(len(r.features) for r in rows)}
    return difference([p.grad for p in [*model.parameters(), *objective.parameters().values()]], wanted)


def main() -> int:
    dist.init_process_group("gloo")
    failed = 0
    for name, cut in CUTS.items():
        for dropout, places, learned, omit in (
            (0.0, True, True, False),
            (0.1, True, False, True),
            (0.1, False, True, True),
        ):
            found = exactness(cut, dropout, TwoParts(places, learned, omit))
            print(f"{found:.1e} (at most 1e-10)  {name}, {dropout=} {places=} {learned=} {omit=}", flush=True)
            failed += not found <= 1e-10
    dist.destroy_process_group()
    return failed


if __name__ == "__main__":
    sys.exit(main())
