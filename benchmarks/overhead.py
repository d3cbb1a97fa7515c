"""What the engine itself costs beside the model: planner, exchange between ranks, bookkeeping.

    python benchmarks/overhead.py
    python benchmarks/overhead.py --ranks 2

The tiny MiniCPM-V is trained on generated pages, as `polylens train` would, for two epochs: in the first one the
planner reads the headers of all pictures. Calls are timed one inside the other, each without those that it makes.
Time is processor time of rank 0 with all its threads, of the data workers none; gradients that DDP sums are part of
the backward pass. The program ends with an error if the engine takes more than 3 % of a step of a later epoch.
"""

from __future__ import annotations

import argparse
import functools
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from measure import machine
from memory import write_pages

import polylens
from polylens.config.run import DataConfig, GradientCacheConfig
from polylens.engine import distributed, gradient_cache, stream, trainer
from polylens.engine.pair_steps import PairRecords
from polylens.engine.random_state import RandomState
from polylens.engine.steps import StepPlanner
from polylens.objectives.contrastive import Contrastive

LIMIT = 0.03

PARTS: dict[str, list[tuple[Any, str]]] = {
    "plan": [(StepPlanner, "step")],
    "tokens and headers of rows": [(PairRecords, "cost")],
    "gather vectors": [(gradient_cache, "gather")],
    "loss and its gradients": [(Contrastive, "coupled")],
    "return gradients": [(gradient_cache, "return_gradients")],
    "sums over ranks": [(distributed, "sum_tensor"), (distributed, "sum_counts"), (distributed, "least")],
    "random states": [(RandomState, "capture"), (RandomState, "restore")],
    "surrogate loss": [(gradient_cache, "surrogate")],
    "compare the passes": [(gradient_cache._Returned, "compare")],
    "receive micro-batches": [(stream.MicroBatchStream, "step"), (stream, "unpack")],
}
"""Part of the engine -> the functions that are it."""


class Stopwatch:
    """Processor time and number of calls by (epoch, part), each call without the timed calls inside it."""

    def __init__(self) -> None:
        self.seconds: defaultdict[tuple[int, str], float] = defaultdict(float)
        self.calls: Counter[tuple[int, str]] = Counter()
        self.epoch = 0
        self._inner = [0.0]

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            self._inner.append(0.0)
            start = time.process_time()
            try:
                return function(*args, **kwargs)
            finally:
                taken = time.process_time() - start
                self.seconds[self.epoch, part] += taken - self._inner.pop()
                self.calls[self.epoch, part] += 1
                self._inner[-1] += taken

        return call

    def watch(self, part: str, owner: Any, name: str) -> None:
        found = owner.__dict__[name]
        if isinstance(found, classmethod):
            setattr(owner, name, classmethod(self.timed(part, found.__func__)))
        else:
            setattr(owner, name, self.timed(part, found))


def main() -> int:
    args = _arguments()
    if args.ranks > 1 and "RANK" not in os.environ:
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={args.ranks}"]
        return subprocess.run([*launcher, *sys.argv], check=False).returncode
    torch.set_num_threads(1)
    watch = _watched()
    with tempfile.TemporaryDirectory() as folder:
        _train(Path(folder), args)
    return _report(watch, args) if distributed.rank() == 0 else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=32, help="pairs of a step, on each rank")
    parser.add_argument("--pages", type=int, default=128, help="for each rank")
    parser.add_argument("--micro-batch", type=int, default=8)
    parser.add_argument("--ranks", type=int, default=1)
    return parser.parse_args()


def _watched() -> Stopwatch:
    watch = Stopwatch()
    for part, functions in PARTS.items():
        for owner, name in functions:
            watch.watch(part, owner, name)
    _watch_loader(watch)
    _watch_steps(watch)
    return watch


def _watch_loader(watch: Stopwatch) -> None:
    """The iterator over what workers send is made anew with every stream."""
    restart = stream.MicroBatchStream._restart

    def call(self: stream.MicroBatchStream, epoch: int, step: int) -> None:
        restart(self, epoch, step)
        received = self._batches
        assert received is not None
        take = watch.timed("receive micro-batches", received.__next__)
        self._batches = _endless(take)

    setattr(stream.MicroBatchStream, "_restart", call)  # noqa: B010


def _endless(take: Callable[[], Any]) -> Iterator[Any]:
    while True:
        yield take()


def _watch_steps(watch: Stopwatch) -> None:
    step = watch.timed("forward and backward passes, all else", trainer.PolylensTrainer.training_step)

    def call(self: Any, model: Any, inputs: tuple[int, int], *args: Any) -> Any:
        watch.epoch = inputs[0]
        return step(self, model, inputs, *args)

    setattr(trainer.PolylensTrainer, "training_step", call)  # noqa: B010


def _train(folder: Path, args: argparse.Namespace) -> None:
    write_pages(folder, args.pages * args.ranks)
    polylens.train(
        polylens.RunConfig(
            model_plugin="minicpmv",
            model="tiny",
            output_dir=str(folder / "run"),
            data=DataConfig(train=[str(folder / "pairs.jsonl")], documents=[str(folder / "store")]),
            gradient_cache=GradientCacheConfig(micro_batch_size=args.micro_batch),
            training={
                "per_device_train_batch_size": args.batch,
                "num_train_epochs": 2,
                "dataloader_num_workers": 1,
                "save_strategy": "no",
                "report_to": "none",
            },
        )
    )


def _report(watch: Stopwatch, args: argparse.Namespace) -> int:
    steps = args.pages // args.batch
    print(f"{machine()}\n{args.ranks} ranks, {args.batch} pairs each, micro-batches of {args.micro_batch} rows")
    print(f"{'':40}calls a step      first epoch     later epochs")
    totals = [sum(seconds for (e, _), seconds in watch.seconds.items() if e == epoch) for epoch in (0, 1)]
    for part in (*PARTS, "forward and backward passes, all else"):
        figures = [f"{watch.calls[1, part] / steps:12.0f}"]
        for epoch, total in enumerate(totals):
            seconds = watch.seconds[epoch, part]
            figures.append(f"{seconds / steps * 1e3:8.1f} ms {seconds / total:5.2%}")
        print(f"{part:40}{'  '.join(figures)}")
    engine = [sum(watch.seconds[epoch, part] for part in PARTS) / total for epoch, total in enumerate(totals)]
    print(f"the engine: {engine[0]:.2%} of a step of the first epoch, {engine[1]:.2%} of a later one")
    return int(engine[1] > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
