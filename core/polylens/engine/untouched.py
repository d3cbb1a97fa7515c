"""Leaves a run as it was, whatever was computed in between.

What a forward and a backward pass change besides gradients: random generators, buffers of the model (the running
statistics of a batch norm) and, under DeepSpeed, the gradients and counters that its optimizers keep. Weights,
optimizer states and learning rates change in an optimizer step alone.
"""

from __future__ import annotations

import contextlib
import gc
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from polylens.engine.random_state import RandomState
from polylens.errors import InputError

CHECK_SCALE = 256.0
"""Loss scale under fp16: one that neither overflows, as the first scales of a run do, nor loses small gradients."""


@contextlib.contextmanager
def untouched(model: nn.Module, scaler: Any = None) -> Iterator[nn.Module]:
    """Gives a model to compute gradients with, and afterwards clears them and all that they left behind.

    Args:
        model: as the trainer wraps it.
        scaler: of fp16 losses, outside DeepSpeed.

    Yields:
        The model; in place of a ``DistributedDataParallel`` another one around the same module. In the first backward
        pass it settles the order of its buckets, and with it the order in which floats of several ranks are added.
    """
    python, arrays, tensors = random.getstate(), np.random.get_state(), RandomState.capture()
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    with _scaled_down(scaler), _engine_untouched(model) if is_deepspeed(model) else _gradients_cleared(model) as inner:
        yield inner
    with torch.no_grad():
        for buffer, value in buffers:
            buffer.copy_(value)
    random.setstate(python)
    np.random.set_state(arrays)
    tensors.restore()


def is_deepspeed(model: nn.Module) -> bool:
    return hasattr(model, "zero_optimization_stage")


def loss_scale(model: Any, scaler: Any = None) -> float:
    """What losses are multiplied by before their backward pass."""
    if scaler is not None:
        return float(scaler.get_scale())
    zero = _zero_optimizer(model) if is_deepspeed(model) else None
    return float(zero.loss_scale) if zero is not None else 1.0


def _zero_optimizer(engine: Any) -> Any:
    from deepspeed.runtime.base_optimizer import ZeROOptimizer

    return engine.optimizer if isinstance(engine.optimizer, ZeROOptimizer) else None


@contextlib.contextmanager
def _scaled_down(scaler: Any) -> Iterator[None]:
    if scaler is None:
        yield
        return
    state = scaler.state_dict()
    scaler.load_state_dict({**state, "scale": CHECK_SCALE})
    yield
    scaler.load_state_dict(state)


@contextlib.contextmanager
def _gradients_cleared(model: nn.Module) -> Iterator[nn.Module]:
    if isinstance(model, DistributedDataParallel):
        yield _twin(model)
        gc.collect()  # the twin lies in circles of references, and holds a copy of all gradients
    else:
        yield model
    for parameter in model.parameters():
        parameter.grad = None


def _twin(model: DistributedDataParallel) -> DistributedDataParallel:
    return DistributedDataParallel(
        model.module,
        device_ids=model.device_ids,
        output_device=model.output_device,
        broadcast_buffers=model.broadcast_buffers,
        init_sync=False,
        process_group=model.process_group,
        bucket_cap_mb=None if model.bucket_bytes_cap_default else model.bucket_bytes_cap // 2**20,
        find_unused_parameters=model.find_unused_parameters,
        gradient_as_bucket_view=model.gradient_as_bucket_view,
        static_graph=model.static_graph,
    )


@contextlib.contextmanager
def _engine_untouched(engine: Any) -> Iterator[nn.Module]:
    zero = _zero_optimizer(engine)
    if getattr(zero, "swap_optimizer", False):
        raise InputError(
            "--verify-gradient: gradients that ZeRO-3 has moved to NVMe cannot be cleared; offload to cpu"
        )
    boundary = engine._is_gradient_accumulation_boundary
    micro_step, scale = getattr(zero, "micro_step_id", None), loss_scale(engine)
    if zero is not None and scale != 1.0:
        zero.loss_scale = min(scale, CHECK_SCALE)
    yield engine
    engine.zero_grad()
    engine.optimizer.zero_grad(set_to_none=True)
    if zero is not None:
        _clear(zero)
        zero.micro_step_id = micro_step
    if zero is not None and scale != 1.0:
        zero.loss_scale = scale
    if engine.zero_optimization_stage() == 3:
        engine.empty_partition_cache()  # graphs of several micro-batches leave weights gathered
    engine.set_gradient_accumulation_boundary(True)
    engine._is_gradient_accumulation_boundary = boundary


def _clear(optimizer: Any) -> None:
    """What ZeRO's optimizers of stages 1 to 3 keep of gradients until ``step``.

    The buffers are zeroed as well, because a parameter that no loss reaches in the next step keeps what lies there.
    """
    optimizer.clear_backward_seen_flag()
    optimizer.averaged_gradients.clear()
    for name in ("all_grad_tensors", "accumulated_grads_in_cpu"):
        getattr(optimizer, name, {}).clear()
    for name in ("_offload_accumulated_param_ids", "_offload_boundary_param_ids"):
        if hasattr(optimizer, name):
            setattr(optimizer, name, set())
    optimizer.reset_cpu_buffers()
    buffers = [getattr(optimizer, "grad_partitions_flat_buffer", None)]
    for name in ("single_partition_of_fp32_groups", "fp32_partitioned_groups_flat"):
        buffers += [partition.grad for partition in getattr(optimizer, name, [])]
    for buffer in buffers:
        if buffer is not None:
            buffer.zero_()
