"""What ``vision_chunk_size`` buys: the memory of a small micro-batch with the language model at a large one.

    python benchmarks/vision_chunks.py [--pages 8] [--rounds 2] [--towers trained frozen] [--cuts 1 2 8 8x10 8x20]

A step of the gradient cache over pages of 10 crops and as many questions, in float32 on one thread, of a MiniCPM-V 2.0
whose tower needs far more memory than its language model. A cut ``8x10`` is a micro-batch of 8 rows whose crops go
through the tower 10 at a time; ``8`` sends all 80 at once. Tower and connector are trained or frozen. Nothing is kept
from the first pass, so that the cut alone differs. Each measurement is a process of its own: seconds are processor
time, memory is the step's peak above what was there before it. The program ends with an error if gradients differ by
more than rounding.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from measure import Cost, machine, measure

from polylens import GradientCache
from polylens.contracts import Batch
from polylens.objectives.contrastive import Contrastive, ContrastiveOptions
from polylens_minicpmv.models.minicpmv2 import MiniCPMV2, MiniCPMV2Config

CROPS, SIDE, QUERIES_OF_A_CROP = 10, 112, 16
TEXT, VOCABULARY = 16, 1000
TOWERS = ("trained", "frozen")
MIB = 2**20


def main() -> None:
    args = _arguments()
    if args.gradient:
        print(json.dumps(_measure_here(args)))
        return
    print(f"{machine()}, one thread; {args.pages} pages of {CROPS} crops, best of {args.rounds}")
    for tower in args.towers:
        _compare(tower, args)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages", type=int, default=8, help="pages, and questions, of a step")
    parser.add_argument("--rounds", type=int, default=2, help="processes for each cut, two steps each")
    parser.add_argument("--towers", nargs="+", choices=TOWERS, default=list(TOWERS))
    parser.add_argument("--cuts", nargs="+", default=["1", "2", "8", "8x10", "8x20"])
    parser.add_argument("--gradient", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def _compare(tower: str, args: argparse.Namespace) -> None:
    """Print the costs of all cuts; they take turns."""
    found: dict[str, list[Cost]] = {cut: [] for cut in args.cuts}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(args.rounds):
            for cut in args.cuts:
                found[cut].append(_in_process(tower, cut, Path(folder) / f"{cut}.pt", args))
        _check_same([Path(folder) / f"{cut}.pt" for cut in args.cuts])
    base = min(cost.seconds for cost in found[args.cuts[0]]), min(cost.peak for cost in found[args.cuts[0]])
    print(f"\n{'tower ' + tower:>16}   pages/s  speed     MiB  memory")
    for cut, costs in found.items():
        seconds, peak = min(cost.seconds for cost in costs), min(cost.peak for cost in costs)
        speed = f"{args.pages / seconds:9.2f} {base[0] / seconds:6.2f}"
        print(f"{cut:>16} {speed} {peak / MIB:7.0f} {peak / base[1]:7.2f}", flush=True)


def _in_process(tower: str, cut: str, gradient: Path, args: argparse.Namespace) -> Cost:
    """Measure in a fresh process: memory that one step left to the allocator would hide the peak of another."""
    command = [sys.executable, __file__, "--towers", tower, "--cuts", cut, "--gradient", str(gradient)]
    command += ["--pages", str(args.pages)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return Cost(**json.loads(done.stdout.splitlines()[-1]))


def _check_same(paths: list[Path]) -> None:
    wanted, *others = (torch.load(path, weights_only=True) for path in paths)
    for path, found in zip(paths[1:], others, strict=True):
        error = float((found - wanted).norm() / wanted.norm())
        assert error < 1e-4, f"{path.stem}: the gradient differs by {error:.1e}"


def _measure_here(args: argparse.Namespace) -> dict[str, float]:
    """The first step shows the memory; the faster one of two counts."""
    torch.set_num_threads(1)
    rows, _, chunk = args.cuts[0].partition("x")
    model = _model(args.towers[0] == "frozen", int(chunk) if chunk else None)
    cache = GradientCache(
        lambda batch: model(batch, outputs=frozenset({"hidden"})), Contrastive(ContrastiveOptions(temperature=0.1))
    )
    cache.step([_questions(range(1)), _batch(range(1), 1, crops=1)])  # gradients, and what libraries set up once
    micro_batches = [make(part) for make in (_questions, _pages) for part in _parts(args.pages, int(rows))]
    costs = []
    for _ in range(2):
        model.zero_grad(set_to_none=False)
        costs.append(measure(lambda: cache.step(micro_batches)))
    torch.save(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]), args.gradient)
    return {"seconds": min(c.seconds for c in costs), "wall": min(c.wall for c in costs), "peak": costs[0].peak}


def _model(frozen: bool, chunk: int | None) -> MiniCPMV2:
    torch.manual_seed(0)
    vision = {"image_size": SIDE, "hidden_size": 256, "intermediate_size": 1024, "num_attention_heads": 4}
    config = MiniCPMV2Config(
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        initializer_range=0.08,
        polylens_vision={**vision, "num_hidden_layers": 4},
        drop_vision_last_layer=False,
        query_num=QUERIES_OF_A_CROP,
    )
    model = MiniCPMV2(config).train()
    model.llm.lm_head.requires_grad_(False)
    if frozen:
        model.vpm.requires_grad_(False)
        model.resampler.requires_grad_(False)
    model.vision_chunk_size = chunk
    return model


def _parts(count: int, size: int) -> list[range]:
    return [range(start, min(start + size, count)) for start in range(0, count, size)]


def _questions(numbers: range) -> Batch:
    return _batch(numbers, 0, 0)


def _pages(numbers: range) -> Batch:
    return _batch(numbers, 1, CROPS)


def _batch(numbers: range, role: int, crops: int) -> Batch:
    """Rows of noise: crops first, then text; the same for a number whatever the cut."""
    rows, visual = len(numbers), crops * QUERIES_OF_A_CROP
    texts, pixels = zip(*(_row(number, role, crops) for number in numbers), strict=True)
    ids = torch.cat([torch.zeros(rows, visual, dtype=torch.long), torch.stack(texts)], dim=1)
    return Batch(
        ids=[str(number) for number in numbers],
        input_ids=ids,
        attention_mask=torch.ones_like(ids, dtype=torch.bool),
        labels=torch.full_like(ids, -100),
        visual_mask=(torch.arange(ids.shape[1]) < visual).expand_as(ids),
        pixels=[crop for page in pixels for crop in page],
        crop_rows=torch.arange(rows).repeat_interleave(crops),
        crop_tokens=torch.full((rows * crops,), QUERIES_OF_A_CROP),
        costs=torch.full((rows,), ids.shape[1]),
        rows={"role": torch.full((rows,), role), "position": torch.tensor(list(numbers))},
        crop_sizes=torch.full((rows * crops, 2), SIDE),
    )


def _row(number: int, role: int, crops: int) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    """Token ids and crops."""
    generator = torch.Generator().manual_seed(2 * number + role)
    text = torch.randint(VOCABULARY, (TEXT,), generator=generator)
    return text, torch.randint(256, (crops, 3, SIDE, SIDE), dtype=torch.uint8, generator=generator).unbind()


if __name__ == "__main__":
    main()
