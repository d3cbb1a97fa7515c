"""Autocast and loss scaling: the cached gradient is as near to that in float32 as the gradient of a plain step."""

from __future__ import annotations

import functools

import pytest
import torch
from exactness import Case, build, cut, dense_loss, error, micro_batches, reference, rows, targets

from polylens.engine.accumulation import Accumulation, ScaledAccumulation
from polylens.engine.gradient_cache import GradientCache
from polylens.engine.planner import Budget

CASE = Case(budget=Budget(rows=2))


class Scaling:
    """What accelerate's ``backward`` does under fp16, on the CPU, where accelerate refuses it."""

    def __init__(self) -> None:
        self.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)

    def backward(self, loss: torch.Tensor) -> None:
        self.scaler.scale(loss).backward()


@functools.cache
def wanted() -> dict[str, torch.Tensor]:
    module, checkpoint = build(CASE, "float32")
    examples = rows(checkpoint)
    return reference(module, checkpoint, examples, cut(examples, CASE, 1), CASE)[1]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype):
    errors = [_error(dtype, plain) for plain in (False, True)]
    assert errors[0] <= 1.25 * errors[1]
    assert errors[1] < 0.05


def _error(dtype: torch.dtype, plain: bool) -> float:
    module, checkpoint = build(CASE, "float32")
    examples, scaling = rows(checkpoint), Scaling()
    parts = cut(examples, CASE, 1)
    under_autocast = torch.autocast("cpu", dtype)(module)
    if plain:
        made = under_autocast(checkpoint.collator()(examples)).representations
        ordered = (made[name].values[made[name].positions.argsort()] for name in ("query", "document"))
        scaling.backward(dense_loss(*ordered, module.objective))
    else:
        accumulation: Accumulation = ScaledAccumulation(scaling)
        cache = GradientCache.of_module(under_autocast, module.objective, accumulation)
        cache.step(micro_batches(checkpoint, examples, parts[0]), targets())
    scale = scaling.scaler.get_scale()
    return error({n: p.grad / scale for n, p in module.named_parameters() if p.grad is not None}, wanted())
