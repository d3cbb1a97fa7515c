"""What alignment costs beside language modelling alone, and what memory its negatives take.

    python benchmarks/multi_granularity.py [--rounds 3]
    python benchmarks/multi_granularity.py --memory 64 1024

The language model has 4 layers and hidden size 512, the tower 256 patches and little else, so that what is measured is
not hidden behind it; random weights, float32, all but the tower trained. A row is a picture with 20 OCR lines and 64
tokens of text, half of which are the answer.

Without ``--memory``: a step of 32 rows under ``lm`` and under both forms of ``multi_granularity``, forward and
backward, in micro-batches of 8, as processor time of one thread. Beside it what the original does in every step: its
search for stop words by loops and a convolution for each of 919 words, an embedding call for each OCR line, and OCR of
every picture inside the forward pass (with RapidOCR, where that is installed).

With it: the peak of a step of ``infonce`` above weights and gradients, in a process of its own for each batch size, in
micro-batches of 8 that are made when they are asked for, and that of ``lm`` at the smallest of them. The size of the
vectors stands beside it: a batch needs them in any case.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
from measure import best, machine, measure
from torch import Tensor
from torch.nn import functional as F

from polylens.contracts import IGNORE_INDEX, Batch, Regions

ROWS, MICRO_BATCH, LINES, TEXT, SIDE, WORDS = 32, 8, 20, 64, 16, 32_000
HIDDEN = 512
STOP_WORDS = 919
MIB = 2**20
FORMS = ("lm", "alignment", "infonce")


def main() -> None:
    args = _arguments()
    torch.set_num_threads(1)
    if args.step:
        form, rows = args.step.split(":")
        print(json.dumps(_peak(form, int(rows))))
    elif args.memory:
        print(f"{machine()}, one thread")
        _report_memory(_in_process("lm", min(args.memory)), {n: _in_process("infonce", n) for n in args.memory})
    else:
        print(f"{machine()}, one thread; best of {args.rounds}")
        _report_steps(args.rounds)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="steps of each kind")
    parser.add_argument("--memory", type=int, nargs="+", metavar="ROWS", help="batch sizes whose peaks are compared")
    parser.add_argument("--step", help=argparse.SUPPRESS)
    return parser.parse_args()


def _report_steps(rounds: int) -> None:
    batches = [_batch(start) for start in range(0, ROWS, MICRO_BATCH)]
    calls = {form: _stepper(form, batches) for form in FORMS}
    for call in calls.values():
        call()
    costs = best(calls, rounds)
    plain = costs["lm"].seconds
    print(f"{'':>28}  CPU s  over lm")
    for form, cost in costs.items():
        print(f"{form:>28} {cost.seconds:6.2f} {cost.seconds / plain - 1:+8.1%}")
    for name, call in _as_the_original(batches).items():
        seconds = measure(call).seconds
        print(f"{name:>28} {seconds:6.2f} {seconds / plain:+8.1%}")


def _stepper(form: str, batches: list[Batch]) -> Any:
    from polylens.engine.accumulation import Accumulation
    from polylens.engine.frozen import FrozenOutputs
    from polylens.engine.gradient_cache import GradientCache
    from polylens.engine.training_module import TrainingModule

    model, objective = _model(), _objective(form)
    module = TrainingModule(model, objective)
    frozen = FrozenOutputs(module, 1 << 30, whole_first_pass=False) if objective.is_coupled else None
    cache = GradientCache.of_module(module, objective, Accumulation(), frozen=frozen)
    normalisers = [objective.normalisers(batch) for batch in batches]
    total = {name: sum(one[name] for one in normalisers) for name in normalisers[0]}

    def step() -> None:
        model.zero_grad(set_to_none=True)
        cache.step(batches, normalisers=total)

    return step


@cache
def _model() -> Any:
    """LLaVA with a small tower, which is frozen."""
    from polylens import plugins

    hooks = plugins.load("llava_remgcl")
    family = next(family for family in hooks.families() if family.name == "llava")
    config = json.loads((family.presets["tiny"] / "config.json").read_text(encoding="utf-8"))
    config |= {"vocab_size": WORDS, "hidden_size": HIDDEN, "intermediate_size": 1376, "num_hidden_layers": 4}
    config |= {"num_attention_heads": 8, "num_key_value_heads": 8}
    config["vision_config"] |= {"image_size": 14 * SIDE, "patch_size": 14}
    torch.manual_seed(0)
    model = hooks.build_model(family=family, config=config)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("vision_tower" not in name)
    return model


def _objective(form: str) -> Any:
    from polylens.objectives.lm import LanguageModelling
    from polylens.objectives.multi_granularity import MultiGranularity, MultiGranularityOptions
    from polylens.objectives.stop_words import StopWords

    if form == "lm":
        return LanguageModelling()
    options = MultiGranularityOptions(form=form, tile_rows=256)  # type: ignore[arg-type]
    return MultiGranularity(options, StopWords(_stop_words()))


def _stop_words() -> list[list[int]]:
    """As many as the original has, a fifth of them of two to four ids."""
    generator = torch.Generator().manual_seed(1)
    lengths = [1 if i % 5 else 2 + i % 3 for i in range(STOP_WORDS)]
    return [torch.randint(3, WORDS, (length,), generator=generator).tolist() for length in lengths]


def _batch(start: int) -> Batch:
    """A micro-batch of rows that follow from ``start``."""
    generator = torch.Generator().manual_seed(start)
    patches = SIDE * SIDE
    length = patches + TEXT
    ids = torch.randint(3, WORDS, (MICRO_BATCH, length), generator=generator)
    labels = ids.clone()
    labels[:, : length - TEXT // 2] = IGNORE_INDEX
    visual = torch.zeros_like(ids, dtype=torch.bool)
    visual[:, 4 : 4 + patches] = True
    return Batch(
        ids=[str(start + row) for row in range(MICRO_BATCH)],
        input_ids=ids,
        attention_mask=torch.ones_like(visual),
        labels=labels,
        visual_mask=visual,
        pixels=list(torch.randint(256, (MICRO_BATCH, 3, 14 * SIDE, 14 * SIDE), generator=generator).byte()),
        crop_rows=torch.arange(MICRO_BATCH),
        crop_tokens=torch.full((MICRO_BATCH,), patches),
        costs=torch.full((MICRO_BATCH,), length),
        regions=Regions.joined([_regions(generator) for _ in range(MICRO_BATCH)]),
        rows={"picture": torch.arange(start, start + MICRO_BATCH)},
    )


def _regions(generator: torch.Generator) -> Regions:
    """Lines of two rows of six patches, and five tokens of text."""
    lines = []
    for place in torch.randint(SIDE * (SIDE - 2), (LINES,), generator=generator).tolist():
        row, column = place // SIDE, min(place % SIDE, SIDE - 6)
        tokens = [(row + down) * SIDE + column + right for down in range(2) for right in range(6)]
        lines.append((torch.randint(3, WORDS, (5,), generator=generator).tolist(), tokens, 0.9))
    return Regions.of_example([True] * SIDE * SIDE, lines)


def _as_the_original(batches: list[Batch]) -> dict[str, Any]:
    """What REMGCL's forward pass does besides, written anew after its description."""
    table = _model().get_input_embeddings()
    found: dict[str, Any] = {
        "original's stop words": lambda: [_convolved(batch.labels) for batch in batches],
        "original's embedding calls": lambda: [
            table(ids).mean(dim=0)
            for batch in batches
            if batch.regions is not None
            for ids in batch.regions.ids.split(batch.regions.id_counts.tolist())
        ],
    }
    try:
        from rapidocr import RapidOCR
    except ImportError:
        return found
    pictures = _signs()
    engine = RapidOCR()
    return {**found, "OCR inside the forward pass": lambda: [engine(picture) for picture in pictures]}


def _convolved(labels: Tensor) -> Tensor:
    """A convolution for each row and word."""
    mask = labels != IGNORE_INDEX
    for row, kept in zip(labels, mask, strict=True):
        for word in _stop_words_once():
            sums = F.conv1d(row[None, None].float(), torch.ones(1, 1, len(word)))[0, 0]
            for start in (sums == float(sum(word))).nonzero().flatten().tolist():
                kept[start : start + len(word)] = False
    return mask


@cache
def _stop_words_once() -> list[list[int]]:
    return _stop_words()


def _signs() -> list[Any]:
    """Pictures of 448 x 448 with a line of text in each of 20 rows."""
    import numpy as np
    from PIL import Image, ImageDraw

    pictures = []
    for number in range(ROWS):
        picture = Image.new("RGB", (448, 448), "white")
        draw = ImageDraw.Draw(picture)
        for line in range(LINES):
            draw.text((10, 4 + 22 * line), f"sign {number} says line {line}", fill="black", font_size=16)
        pictures.append(np.asarray(picture))
    return pictures


def _in_process(form: str, rows: int) -> dict[str, float]:
    """A fresh process: memory that one step left to the allocator would hide the peak of another."""
    command = [sys.executable, __file__, "--step", f"{form}:{rows}"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def _peak(form: str, rows: int) -> dict[str, float]:
    for weight in _model().parameters():
        if weight.requires_grad:
            weight.grad = torch.full_like(weight, 0.0)  # as in every step but the first, whose peak is another
    cost = measure(_stepper_of_stream(form, _Streamed(rows)))
    vectors = 2 * rows * (1 + LINES) * HIDDEN * 4 if form == "infonce" else 0
    return {"peak": cost.peak, "seconds": cost.seconds, "vectors": vectors}


class _Streamed:
    """Micro-batches that are made when they are asked for, as data workers do."""

    def __init__(self, rows: int) -> None:
        self.rows = rows

    def __iter__(self) -> Iterator[Batch]:
        return (_batch(start) for start in range(0, self.rows, MICRO_BATCH))


def _stepper_of_stream(form: str, batches: _Streamed) -> Any:
    from polylens.engine.accumulation import Accumulation
    from polylens.engine.gradient_cache import GradientCache
    from polylens.engine.training_module import TrainingModule

    objective = _objective(form)
    cache = GradientCache.of_module(TrainingModule(_model(), objective), objective, Accumulation())
    normalisers = {"tokens": batches.rows * TEXT / 2}
    return lambda: cache.step(batches, normalisers=normalisers)


def _report_memory(plain: dict[str, float], peaks: dict[int, dict[str, float]]) -> None:
    print(f"{'':>8} {'rows':>6}  peak MiB  vectors MiB  over lm  CPU s")
    for rows, found in [(min(peaks), plain), *peaks.items()]:
        name, over = ("lm", 0.0) if found is plain else ("infonce", found["peak"] - plain["peak"])
        figures = (
            f"{found['peak'] / MIB:9.0f} {found['vectors'] / MIB:12.0f} {over / MIB:+8.0f} {found['seconds']:6.0f}"
        )
        print(f"{name:>8} {rows:6} {figures}")


if __name__ == "__main__":
    main()
