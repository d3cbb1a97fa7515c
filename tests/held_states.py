"""What DeepSpeed holds on a rank in a run of the tiny VLM, beside what ``polylens estimate`` says.

Run as a script by every rank, with ``more`` for all cases rather than the few that the tests run. It prints one line a
case and ends with an error if one is off by more than ``ALLOWED``. What is held is counted from outside: every
floating-point tensor that is alive at the end of the last backward pass of the second step, and was not before the
model was built.
"""

from __future__ import annotations

import gc
import logging
import sys
from dataclasses import dataclass

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.utils import logger
from exactness import Case, build, cut, micro_batches, rows, targets
from torch import Tensor
from transformers.integrations.deepspeed import HfDeepSpeedConfig

from polylens.engine.accumulation import Part, accumulation_for
from polylens.engine.estimate.states import Numeric, Setup, states
from polylens.engine.gradient_cache import GradientCache
from polylens.engine.planner import Budget

ALLOWED = 0.03
BUCKET = 300_000


@dataclass(frozen=True)
class Held:
    """A case: a setup, the precision, and whether adapters are trained."""

    setup: Setup
    precision: str = "bf16"
    lora: bool = False

    @property
    def config(self) -> dict:
        zero = {
            "stage": self.setup.stage,
            "reduce_bucket_size": BUCKET,
            "stage3_param_persistence_threshold": 0,
            "stage3_max_live_parameters": 0,
            "stage3_prefetch_bucket_size": 0,
        }
        if self.setup.offload != "none":
            zero["offload_optimizer"] = {"device": "cpu"}
        if self.setup.offload == "optimizer,params":
            zero["offload_param"] = {"device": "cpu"}
        config = {
            "train_micro_batch_size_per_gpu": 1,
            "zero_optimization": zero,
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
        }
        if self.precision == "bf16":
            config["bf16"] = {"enabled": True}
            if self.setup.low_memory:  # as the engine does
                config["data_types"] = {"grad_accum_dtype": "fp32"}
        return config


CASES = [
    Held(Setup(1, 2)),
    Held(Setup(2, 2, low_memory=True)),
    Held(Setup(3, 2)),
]
MORE = [
    *(Held(Setup(stage, 2)) for stage in (1, 2, 3)),
    *(Held(Setup(stage, 2, low_memory=True)) for stage in (2, 3)),
    *(Held(Setup(stage, 2), "float32") for stage in (1, 2, 3)),
    *(Held(Setup(stage, 2, low_memory=True), "float32") for stage in (2, 3)),
    *(Held(Setup(stage, 2), lora=True) for stage in (1, 2, 3)),
]


def alive() -> dict[int, Tensor]:
    """Every floating-point tensor, once for each storage."""
    gc.collect()
    found = [thing for thing in gc.get_objects() if isinstance(thing, Tensor) and thing.is_floating_point()]
    found += [tensor.grad for tensor in found if tensor.is_leaf and tensor.grad is not None]
    return {tensor.untyped_storage().data_ptr(): tensor for tensor in found if tensor.untyped_storage().nbytes()}


def held_bytes(before: set[int]) -> int:
    now = alive()
    return sum(tensor.untyped_storage().nbytes() for place, tensor in now.items() if place not in before)


def run(held: Held) -> tuple[int, int]:
    """Bytes that are held, and bytes that were estimated."""
    case = Case(budget=Budget(rows=8), lora=held.lora)
    active = HfDeepSpeedConfig(held.config)  # loading then partitions
    before = set(alive())
    module, checkpoint = build(case, "float32")
    module.train()
    numbers = {name: getattr(p, "ds_numel", p.numel()) for name, p in module.named_parameters()}
    trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(trained.values(), lr=1e-4)
    engine, *_ = deepspeed.initialize(model=module, optimizer=optimizer, config=held.config)
    accumulation = accumulation_for(engine, low_memory=held.setup.low_memory)
    found = 0
    for step in range(2):
        examples = rows(checkpoint)
        own = micro_batches(checkpoint, examples, cut(examples, case, dist.get_world_size())[dist.get_rank()])
        with accumulation.step():
            part = Part(accumulation, share=1.0, last=True)
            GradientCache.of_module(engine, module.objective, part).step(own, targets())
            del own, examples
            found = held_bytes(before) if step else 0
        engine.set_gradient_accumulation_boundary(True)
        engine.step()
    engine.destroy()
    del active
    numeric = Numeric(held.precision, reduce_bucket=BUCKET)  # type: ignore[arg-type]
    said = states(sum(numbers.values()), sum(numbers[name] for name in trained), held.setup, numeric)
    buffers = numeric.compute_bytes * BUCKET if held.setup.stage == 3 else 0  # ZeRO 1 and 2 make theirs to reduce
    return found, said.weights + said.optimizer + said.gradients + buffers


def main(more: bool) -> int:
    """The number of cases that are off."""
    logger.setLevel(logging.ERROR)
    deepspeed.init_distributed("gloo")
    failed = 0
    for held in MORE if more else CASES:
        found, said = run(held)
        off = found / said - 1
        if dist.get_rank() == 0:
            print(f"held {found:>11,}  estimated {said:>11,}  {off:+.1%}  {held}", flush=True)
        failed += abs(off) > ALLOWED
    dist.destroy_process_group()
    return failed


if __name__ == "__main__":
    sys.exit(main(more="more" in sys.argv))
