"""The contrastive loss and its gradients alone: by row tiles, and as one dense matrix with autograd.

    python benchmarks/loss_stage.py --hard-negatives 1

Vectors are random directions, each document near its query, in float32. False negatives are masked: by default two a
query. Each form runs in processes of its own, turn by turn, so that the memory of one is not that of the other; time
is processor time of one thread, memory what the call adds at its highest. The program ends with an error if loss,
accuracy or gradients differ.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from measure import Cost, machine, measure
from torch import Tensor
from torch.nn import functional as F

from polylens.contracts import PairTargets
from polylens.objectives.contrastive import loss_and_gradients

TOLERANCE = 1e-5
"""Largest relative error of a float32 gradient, in the L2 norm."""

Result = dict[str, Tensor]


def main() -> None:
    args = _arguments()
    torch.set_num_threads(1)
    if args.form:
        _child(args)
        return
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        files = {form: Path(folder) / f"{form}.pt" for form in FORMS}
        costs = {form: Cost(float("inf"), float("inf"), sys.maxsize) for form in FORMS}
        for _ in range(args.rounds):
            for form, file in files.items():
                subprocess.run([sys.executable, *sys.argv, "--form", form, "--file", str(file)], check=True)
                costs[form] = _least(costs[form], torch.load(file, weights_only=True)["cost"])
        _report(args, costs)
        _compare(*(torch.load(files[form], weights_only=True)["result"] for form in ("dense", "tiles")))


def dense(queries: Tensor, documents: Tensor, targets: PairTargets, args: argparse.Namespace) -> Result:
    """The loss as its definition says, every logit at once, with no more matrices than autograd needs."""
    queries, documents = queries.requires_grad_(), documents.requires_grad_()
    logits = (queries / args.temperature) @ documents.T
    logits[targets.ignore[:, 0], targets.ignore[:, 1]] = -torch.inf
    loss = F.cross_entropy(logits, targets.positive)
    if args.symmetric:
        loss = (loss + F.cross_entropy(logits.T[targets.positive], torch.arange(len(queries)))) / 2
    hits = (logits.detach().argmax(dim=1) == targets.positive).sum()
    loss.backward()
    assert queries.grad is not None
    assert documents.grad is not None
    accuracy = hits / len(queries)
    return {"loss": loss.detach(), "accuracy": accuracy, "query": queries.grad, "document": documents.grad}


def tiles(queries: Tensor, documents: Tensor, targets: PairTargets, args: argparse.Namespace) -> Result:
    options = {"temperature": args.temperature, "symmetric": args.symmetric, "tile_rows": args.tile_rows}
    made = loss_and_gradients(queries, documents, targets, **options)
    return {"loss": made.loss, "accuracy": made.metrics["accuracy"], **made.gradients}


FORMS: dict[str, Callable[..., Result]] = {"dense": dense, "tiles": tiles}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=8192)
    parser.add_argument("--dimensions", type=int, default=256)
    parser.add_argument("--hard-negatives", type=int, default=1, help="documents of a query besides its positive")
    parser.add_argument("--masked", type=int, default=2, help="false negatives of a query")
    parser.add_argument("--temperature", type=float, default=0.02)
    parser.add_argument("--symmetric", action="store_true")
    parser.add_argument("--tile-rows", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--form", choices=FORMS, help="measure this form alone, once, and write it to --file")
    parser.add_argument("--file", type=Path)
    return parser.parse_args()


def _problem(args: argparse.Namespace) -> tuple[Tensor, Tensor, PairTargets]:
    generator = torch.Generator().manual_seed(0)
    size, block = (args.queries, args.dimensions), 1 + args.hard_negatives
    queries = F.normalize(torch.randn(size, generator=generator), dim=1)
    near = queries.repeat_interleave(block, dim=0)
    documents = F.normalize(near + torch.randn(near.shape, generator=generator) / 4, dim=1)
    positive = torch.arange(args.queries) * block
    rows = torch.arange(args.queries).repeat_interleave(args.masked)
    columns = torch.randint(len(documents), rows.shape, generator=generator)
    other = columns != positive[rows]
    return queries, documents, PairTargets(positive, torch.stack([rows, columns], dim=1)[other])


def _child(args: argparse.Namespace) -> None:
    problem = _problem(args)
    small = argparse.Namespace(**{**vars(args), "queries": 64})
    FORMS[args.form](*_problem(small), small)  # what the first call alone loads is no part of the loss
    results: list[Result] = []
    cost = measure(lambda: results.append(FORMS[args.form](*problem, args)))
    torch.save({"cost": (cost.seconds, cost.wall, cost.peak), "result": results[0]}, args.file)


def _least(cost: Cost, found: tuple[float, float, int]) -> Cost:
    seconds, wall, peak = found
    return Cost(min(cost.seconds, seconds), min(cost.wall, wall), min(cost.peak, peak))


def _report(args: argparse.Namespace, costs: dict[str, Cost]) -> None:
    documents = args.queries * (1 + args.hard_negatives)
    print(
        f"{args.queries} queries, {documents} documents, {args.dimensions} dimensions, {args.masked} masked a query"
        f"{', both ways' if args.symmetric else ''}; tiles of {args.tile_rows} rows; least of {args.rounds}"
    )
    for form, cost in costs.items():
        print(f"{form:6} {cost.seconds:6.2f} s {cost.peak / 1e6:8.0f} MB")
    own, other = costs["tiles"], costs["dense"]
    print(f"tiles / dense: time {own.seconds / other.seconds:.2f}, memory 1/{other.peak / own.peak:.1f}")


def _compare(wanted: Result, found: Result) -> None:
    for name, value in wanted.items():
        error = float((found[name].double() - value.double()).norm() / value.double().norm())
        print(f"{name}: relative difference {error:.1e}")
        if not error <= TOLERANCE:
            sys.exit(f"{name} differs")


if __name__ == "__main__":
    main()
