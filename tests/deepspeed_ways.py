"""DeepSpeed with offload, half precision and activation checkpointing, against one graph over the whole global batch.

Run as a script by every rank, with ``more`` for all ways rather than the few that the tests run. It prints one line a
way to train and ends with an error if one is not right. In float32
the weights after two clipped steps of SGD are compared with those of torch. In half precision the gradient is compared
with that in float32, and may be no farther from it than that of a plain step under the same engine, with one graph and
one backward, but for a factor: rounding falls otherwise when a batch is cut otherwise.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.accelerator import get_accelerator
from deepspeed.utils import logger, safe_get_full_fp32_param
from exactness import Case, build, cut, dense_loss, error, micro_batches, reference, rows, targets
from torch import Tensor
from transformers.integrations.deepspeed import HfDeepSpeedConfig

from polylens.engine.accumulation import Part, accumulation_for
from polylens.engine.gradient_cache import GradientCache
from polylens.engine.planner import Budget

CLIP, RATE = 0.5, 0.1
WORSE_THAN_PLAIN = 1.25


@dataclass(frozen=True)
class Way:
    """A way to train. ``offload``: "" or "optimizer" or "all"; ``scale_power``: fp16 begins with this loss scale."""

    stage: int
    precision: str = "float32"
    offload: str = ""
    low_memory: bool = False
    checkpointing: bool = False
    dropout: float = 0.0
    scale_power: int = 12

    def __str__(self) -> str:
        given = {f.name: getattr(self, f.name) for f in fields(self)}
        return ", ".join(f"{name}={value}" for name, value in given.items() if value != getattr(Way(-1), name))

    def case(self) -> Case:
        return Case(budget=Budget(rows=2), dropout=self.dropout, lora=self.dropout > 0)

    def config(self) -> dict[str, Any]:
        zero: dict[str, Any] = {"stage": self.stage, "stage3_param_persistence_threshold": 0}
        if self.offload:
            zero["offload_optimizer"] = {"device": "cpu"}
        if self.offload == "all":
            zero["offload_param"] = {"device": "cpu"}
        config: dict[str, Any] = {
            "train_micro_batch_size_per_gpu": 1,
            "zero_optimization": zero,
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,  # DeepSpeed's own is compiled on first use, for minutes
            "gradient_clipping": CLIP if self.precision == "float32" else 0.0,
        }
        if self.precision == "bf16":
            config["bf16"] = {"enabled": True}
        if self.precision == "fp16":
            config["fp16"] = {"enabled": True, "initial_scale_power": self.scale_power, "hysteresis": 1}
        if self.low_memory and self.stage > 1 and self.precision != "float32":  # as the engine does
            config["data_types"] = {"grad_accum_dtype": "fp32"}
        return config


WAYS = [
    Way(3, offload="all", checkpointing=True, dropout=0.1),
    Way(1, "bf16"),
    Way(2, "fp16", scale_power=17),  # the first steps overflow and are skipped
]
MORE = [
    *(Way(stage, offload="optimizer", low_memory=low) for stage in (1, 2, 3) for low in (False, True)),
    *(Way(3, offload="all", low_memory=low, checkpointing=True) for low in (False, True)),
    *(Way(stage, half, low_memory=low) for stage in (1, 2, 3) for half in ("bf16", "fp16") for low in (False, True)),
    *(Way(stage, half, offload="optimizer") for stage in (1, 2, 3) for half in ("bf16", "fp16")),
    *(Way(stage, "fp16", scale_power=17) for stage in (1, 3)),
    *(Way(3, half, offload="all", low_memory=True, checkpointing=True) for half in ("bf16", "fp16")),
]


def in_torch(way: Way, steps: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Weights after ``steps`` clipped steps of SGD, without DeepSpeed; and the first gradient."""
    module, checkpoint = build(way.case(), "float32")
    module.train()
    examples = rows(checkpoint)
    parts = cut(examples, way.case(), dist.get_world_size())
    trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
    first: dict[str, Tensor] = {}
    for _ in range(steps):
        _, gradients = reference(module, checkpoint, examples, parts, way.case())
        first = first or gradients
        norm = torch.stack([gradient.norm() for gradient in gradients.values()]).norm()
        with torch.no_grad():
            for name, gradient in gradients.items():
                trained[name] -= RATE * gradient * min(1.0, float(CLIP / norm))
    return {name: p.detach() for name, p in trained.items()}, first


class Engine:
    """The tiny model under DeepSpeed."""

    def __init__(self, way: Way, rate: float) -> None:
        self.way = way
        self._active = HfDeepSpeedConfig(way.config())  # loading then partitions
        self.module, self.checkpoint = build(way.case(), "float32")
        self.module.train()
        if way.checkpointing:
            self.module.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
        trained = [p for p in self.module.parameters() if p.requires_grad]
        optimizer = torch.optim.SGD(trained, lr=rate)
        self.engine, *_ = deepspeed.initialize(model=self.module, optimizer=optimizer, config=way.config())

    def weights(self) -> dict[str, Tensor]:
        """The float32 ones that the optimizer updates."""
        found = {name: p for name, p in self.module.named_parameters() if p.requires_grad}
        masters = {name: safe_get_full_fp32_param(p) for name, p in found.items()}
        return {name: master.clone() for name, master in masters.items() if master is not None}

    def step(self, plain: bool) -> None:
        """One optimizer step; the gradient cache sees two parts of half the weight, as with accumulation."""
        examples = rows(self.checkpoint)
        accumulation = accumulation_for(self.engine, low_memory=self.way.low_memory)
        rank = dist.get_rank()
        if plain:
            self.engine.set_gradient_accumulation_boundary(True)
            vectors = self.engine(self.checkpoint.collator()(examples)).representations
            ordered = (made.values[made.positions.argsort()] for made in (vectors["query"], vectors["document"]))
            self.engine.backward(dense_loss(*ordered, self.module.objective), scale_wrt_gas=False)
        else:
            own = micro_batches(self.checkpoint, examples, cut(examples, self.way.case(), dist.get_world_size())[rank])
            with accumulation.step():
                for last in (False, True):
                    torch.manual_seed(100 + rank)
                    part = Part(accumulation, share=0.5, last=last)
                    GradientCache.of_module(self.engine, self.module.objective, part).step(own, targets())
        self.engine.set_gradient_accumulation_boundary(True)
        self.engine.step()

    def destroy(self) -> None:
        self.engine.destroy()
        del self._active


def exact(way: Way) -> tuple[float, float]:
    """Relative error of the change of the weights in two steps, and what is allowed."""
    start = {n: p.detach().clone() for n, p in build(way.case(), "float32")[0].named_parameters() if p.requires_grad}
    wanted, _ = in_torch(way, 2)
    engine = Engine(way, RATE)
    for _ in range(2):
        engine.step(plain=False)
    found = engine.weights()
    engine.destroy()
    return error(*({n: start[n] - after[n] for n in start} for after in (found, wanted))), 1e-5


def rounded(way: Way) -> tuple[float, float]:
    """Relative error of the gradient in half precision, and that of a plain step, with some room."""
    _, wanted = in_torch(way, 1)
    plain = _one_step(replace(way, scale_power=12), wanted, plain=True)
    return _one_step(way, wanted, plain=False), WORSE_THAN_PLAIN * plain


def _one_step(way: Way, wanted: dict[str, Tensor], plain: bool) -> float:
    engine = Engine(way, 1.0)
    before = engine.weights()
    engine.step(plain)
    skipped = 0
    while way.precision == "fp16" and engine.engine.optimizer.overflow:
        assert all(torch.equal(before[name], weight) for name, weight in engine.weights().items())
        skipped += 1
        engine.step(plain)
    assert (skipped > 0) == (way.scale_power > 15)
    after = engine.weights()
    engine.destroy()
    return error({name: before[name] - after[name] for name in wanted}, wanted)


def measure(ways: list[Way]) -> Iterator[tuple[Way, float, float]]:
    for way in ways:
        yield way, *(exact(way) if way.precision == "float32" else rounded(way))


def main(more: bool) -> int:
    """The number of ways that are not right."""
    logger.setLevel(logging.ERROR)
    # torch computes in fp16 on any CPU; DeepSpeed asks for one that has instructions for it.
    get_accelerator().is_fp16_supported = lambda: True
    deepspeed.init_distributed("gloo")
    failed = 0
    for way, found, limit in measure(MORE if more else WAYS):
        if dist.get_rank() == 0:
            print(f"{found:.1e} (at most {limit:.1e})  {way}", flush=True)
        failed += not found <= limit
    dist.destroy_process_group()
    return failed


if __name__ == "__main__":
    sys.exit(main(more="more" in sys.argv))
