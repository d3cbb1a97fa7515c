"""What a fine-tuning step costs beside that of transformers' Trainer on the same model and batch.

    python benchmarks/lm_step.py [--rounds 2]

A Llama of 4 layers, hidden size 512 and the vocabulary of MiniCPM-V 2.0 (122,753 words), random weights, float32; 8
rows of 512 tokens, the last 10 % of which are the answer. Forward and backward, one micro-batch on both sides; the
optimizer step is the same and left out. Each measurement is a process of its own, of two steps: seconds are processor
time of one thread in the second step, memory is the peak of the first one above what was there before it. The program
ends with an error if loss or gradient differ by more than rounding.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from measure import Cost, machine, measure
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

from polylens.contracts import IGNORE_INDEX, Batch, Outputs

ROWS, TOKENS, ANSWER, WORDS = 8, 512, 51, 122_753
PEER, OWN = METHODS = ("transformers", "polylens")
MIB = 2**20
Step = Callable[[], Tensor]


def main() -> None:
    args = _arguments()
    if args.method:
        print(json.dumps(_measure_here(args)))
        return
    print(f"{machine()}, one thread; best of {args.rounds} processes")
    found: dict[str, list[Cost]] = {method: [] for method in METHODS}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(args.rounds):
            for method in METHODS:
                found[method].append(_in_process(method, Path(folder)))
        _check_same(Path(folder))
    _report(found)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2, help="processes for each method, two steps each")
    for hidden in ("--method", "--result"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    return parser.parse_args()


def _in_process(method: str, folder: Path) -> Cost:
    """Measure in a fresh process: memory that one step left to the allocator would hide the peak of another."""
    command = [sys.executable, __file__, "--method", method, "--result", str(folder / f"{method}.pt")]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return Cost(**json.loads(done.stdout.splitlines()[-1]))


def _check_same(folder: Path) -> None:
    peer, own = (torch.load(folder / f"{method}.pt", weights_only=True, mmap=True) for method in METHODS)
    assert abs(peer["loss"] - own["loss"]) < 1e-5 * peer["loss"], (peer["loss"], own["loss"])
    error = float((own["gradient"] - peer["gradient"]).norm() / peer["gradient"].norm())
    assert error < 1e-5, f"the gradient differs by {error:.1e}"
    print(f"loss {peer['loss']:.6f} and {own['loss']:.6f}, relative difference of the gradients {error:.1e}")


def _report(found: dict[str, list[Cost]]) -> None:
    print(f"{'':>14}   CPU s  tokens/s  ratio     MiB  share")
    peer_seconds, peer_peak = (min(getattr(cost, name) for cost in found[PEER]) for name in ("seconds", "peak"))
    for method, costs in found.items():
        seconds, peak = min(cost.seconds for cost in costs), min(cost.peak for cost in costs)
        speed, ratio = ROWS * TOKENS / seconds, peer_seconds / seconds
        print(f"{method:>14} {seconds:7.2f} {speed:9.0f} {ratio:6.2f} {peak / MIB:7.0f} {peak / peer_peak:6.2f}")


def _measure_here(args: argparse.Namespace) -> dict[str, float]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "hidden_size": 512,
        "intermediate_size": 1408,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
    }
    model = LlamaForCausalLM(LlamaConfig(vocab_size=WORDS, **sizes))
    ids = torch.randint(WORDS, (ROWS, TOKENS))
    labels = ids.clone()
    labels[:, :-ANSWER] = IGNORE_INDEX
    step = {PEER: _transformers, OWN: _polylens}[args.method](model, ids, labels)
    costs, losses = [], []
    for _ in range(2):
        model.zero_grad(set_to_none=True)
        costs.append(measure(lambda: losses.append(float(step()))))
    gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    torch.save({"loss": losses[1], "gradient": gradient}, args.result)
    # The first step leaves memory to the allocator, which hides the peak of the second; it also warms up.
    return {"seconds": costs[1].seconds, "wall": costs[1].wall, "peak": costs[0].peak}


def _transformers(model: LlamaForCausalLM, ids: Tensor, labels: Tensor) -> Step:
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(model, TrainingArguments(folder, use_cpu=True, report_to="none"))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
    count = (labels[:, 1:] != IGNORE_INDEX).sum()
    return lambda: trainer.training_step(model, dict(inputs), num_items_in_batch=count)


def _polylens(model: LlamaForCausalLM, ids: Tensor, labels: Tensor) -> Step:
    from polylens.engine.accumulation import Accumulation
    from polylens.engine.gradient_cache import GradientCache
    from polylens.engine.training_module import TrainingModule
    from polylens.objectives.lm import LanguageModelling

    objective = LanguageModelling()
    module = TrainingModule(cast(Any, _Reader(model)), objective)
    cache = GradientCache.of_module(module, objective, Accumulation())
    batch = _batch(ids, labels)
    return lambda: cache.step([batch], normalisers=objective.normalisers(batch)).loss


class _Reader(nn.Module):
    """The language model behind the entry of polylens."""

    def __init__(self, model: LlamaForCausalLM) -> None:
        super().__init__()
        self.model, self.head = model.model, model.lm_head

    def forward(self, batch: Batch, outputs: frozenset[str]) -> Outputs:
        mask = batch.attention_mask.long()
        return Outputs(hidden=self.model(input_ids=batch.input_ids, attention_mask=mask).last_hidden_state)


def _batch(ids: Tensor, labels: Tensor) -> Batch:
    nothing = torch.zeros(0, dtype=torch.long)
    return Batch(
        ids=[str(row) for row in range(ROWS)],
        input_ids=ids,
        attention_mask=torch.ones_like(ids, dtype=torch.bool),
        labels=labels,
        visual_mask=torch.zeros_like(ids, dtype=torch.bool),
        pixels=[],
        crop_rows=nothing,
        crop_tokens=nothing,
        costs=torch.full((ROWS,), TOKENS),
    )


if __name__ == "__main__":
    main()
