"""What a step of the gradient cache costs beside a plain step over the whole batch, and beside sentence-transformers.

    python benchmarks/step_cost.py [--cases uniform ragged lora tower] [--rounds 5]

All three train the same model with the same in-batch loss (temperature 0.05, dropout off, float32) on the same pairs.
Each measurement is a process of its own, of two steps: seconds are processor time of one thread in the quicker one,
memory is the peak of the first one above what was there before it. Methods take turns; a ratio is the median of those
of the rounds, as the speed of a shared machine changes by a quarter within minutes. polylens is given a quarter of the
memory of the plain step. The program ends with an error if gradients differ by more than rounding.

- uniform: 512 pairs, queries of 16 tokens and documents of 48; BERT of 4 layers, hidden size 256, mean pooling.
- ragged: the same with queries of 4 to 16 tokens and documents of 12 to 96, log-uniform.
- lora: as uniform, the lower half of the model frozen, LoRA in the upper half.
- tower: MiniCPM-V 2.0 of small sizes whose frozen vision tower is most of it; 48 pages of 5 crops.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from measure import Cost, machine, measure
from models_to_train import PROBLEMS, Problem
from torch import Tensor, nn
from torch.nn import functional as F

TEMPERATURE = 0.05
PLAIN, PEER, OWN = METHODS = ("plain", "sentence-transformers", "polylens")
MIB = 2**20
Step = Callable[[], object]


def main() -> None:
    args = _arguments()
    if args.method:
        print(json.dumps(_measure_here(args)))
        return
    print(f"{machine()}, one thread; {args.rounds} processes of each")
    for case in args.cases:
        _compare(case, args)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=PROBLEMS, default=list(PROBLEMS))
    parser.add_argument("--rounds", type=int, default=5, help="processes for each method, two steps each")
    parser.add_argument("--mini-batch-size", type=int, default=32, help="rows, for sentence-transformers")
    parser.add_argument("--memory", type=float, default=0.25, help="of the plain step's, for polylens")
    for hidden in ("--method", "--budget", "--gradient"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    return parser.parse_args()


def _compare(case: str, args: argparse.Namespace) -> None:
    """Print the costs of all methods in one case; they take turns."""
    found: dict[str, list[Cost]] = {method: [] for method in METHODS}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(args.rounds):
            for method in METHODS:
                budget = int(args.memory * min((cost.peak for cost in found[PLAIN]), default=0))
                found[method].append(_in_process(case, method, budget, Path(folder), args))
        _check_same(Path(folder))
    plain = found[PLAIN]
    print(f"\n{case:>24}   CPU s  ratio (of the rounds)         MiB  share")
    for method, costs in found.items():
        ratios = sorted(cost.seconds / beside.seconds for cost, beside in zip(costs, plain, strict=True))
        seconds, ratio, peak = median(c.seconds for c in costs), median(ratios), min(c.peak for c in costs)
        rounds, share = f"({ratios[0]:.2f} to {ratios[-1]:.2f})", peak / min(c.peak for c in plain)
        print(f"{method:>24} {seconds:7.2f} {ratio:6.2f} {rounds:16} {peak / MIB:10.0f} {share:6.2f}", flush=True)


def _in_process(case: str, method: str, budget: int, folder: Path, args: argparse.Namespace) -> Cost:
    """Measure in a fresh process: memory that one step left to the allocator would hide the peak of another."""
    command = [sys.executable, __file__, "--cases", case, "--method", method, "--budget", str(budget)]
    command += ["--gradient", str(folder / f"{method}.pt"), "--mini-batch-size", str(args.mini_batch_size)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return Cost(**json.loads(done.stdout.splitlines()[-1]))


def _check_same(folder: Path) -> None:
    wanted, *others = (torch.load(folder / f"{method}.pt", weights_only=True) for method in METHODS)
    for method, found in zip(METHODS[1:], others, strict=True):
        error = float((found - wanted).norm() / wanted.norm())
        assert error < 1e-4, f"{method}: the gradient differs by {error:.1e}"


def _measure_here(args: argparse.Namespace) -> dict[str, float]:
    torch.set_num_threads(1)
    problem = PROBLEMS[args.cases[0]]()
    step = {PLAIN: _plain, PEER: _sentence_transformers, OWN: _polylens}[args.method](problem, args)
    costs = []
    for _ in range(2):
        problem.model.zero_grad(set_to_none=True)
        costs.append(measure(step))
    torch.save(torch.cat([p.grad.flatten() for p in problem.model.parameters() if p.grad is not None]), args.gradient)
    # The first step leaves memory to the allocator, which hides the peak of the second.
    return {"seconds": min(c.seconds for c in costs), "wall": min(c.wall for c in costs), "peak": costs[0].peak}


def _plain(problem: Problem, args: argparse.Namespace) -> Step:
    def step() -> None:
        queries, documents = (problem.vectors(role, list(range(problem.size))) for role in (0, 1))
        F.cross_entropy(queries @ documents.T / TEMPERATURE, torch.arange(problem.size)).backward()

    return step


def _sentence_transformers(problem: Problem, args: argparse.Namespace) -> Step:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.losses import CachedMultipleNegativesRankingLoss

    class Rows(nn.Module):
        """A feature is the role and the number of a row; rows are padded to the longest, as its collator does."""

        def __init__(self) -> None:
            super().__init__()
            self.model = problem.model

        def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
            role, numbers = int(features["input_ids"][0, 0]), features["input_ids"][:, 1].tolist()
            return {"sentence_embedding": problem.vectors(role, numbers, pad_as_batch=True)}

    model = SentenceTransformer(modules=[Rows()], device="cpu")
    loss = CachedMultipleNegativesRankingLoss(model, scale=1 / TEMPERATURE, mini_batch_size=args.mini_batch_size)
    numbers = torch.arange(problem.size)
    features = [{"input_ids": torch.stack([torch.full_like(numbers, role), numbers], dim=1)} for role in (0, 1)]
    return lambda: loss([dict(part) for part in features], numbers).backward()


def _polylens(problem: Problem, args: argparse.Namespace) -> Step:
    from polylens import GradientCache
    from polylens.contracts import Representation
    from polylens.engine.frozen import FrozenOutputs
    from polylens.engine.planner import Budget, plan
    from polylens.objectives.contrastive import Contrastive, ContrastiveOptions

    roles = [number // problem.size for number in range(2 * problem.size)]

    def encode(rows: list[int]) -> dict[str, Representation]:
        role, numbers = roles[rows[0]], [row % problem.size for row in rows]
        vectors = problem.vectors(role, numbers)
        return {("query", "document")[role]: Representation(vectors, torch.tensor(numbers))}

    # What is left is for one micro-batch, for gradients and for what the allocator cannot use.
    graphs, outputs = (int(share * int(args.budget)) for share in problem.shares)
    frozen = FrozenOutputs(problem.model, outputs) if outputs else None
    objective = Contrastive(ContrastiveOptions(temperature=TEMPERATURE))
    cache = GradientCache(encode, objective, graph_bytes=graphs, frozen=frozen)
    budget = Budget(tokens=problem.micro_batch_tokens)
    return lambda: cache.step(plan(problem.costs, roles, 1, budget)[0])


if __name__ == "__main__":
    main()
