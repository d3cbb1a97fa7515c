"""How the gradients of several backward calls become one gradient, under each way of training.

Every launcher averages gradients over ranks; the loss is a sum over ranks, so it is scaled by the world size.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from polylens.engine.distributed import world_size


class Accumulation:
    """One process, or a model that no wrapper synchronises: gradients add up in ``.grad``.

    Attributes:
        keeps_graphs: whether several graphs may be made before the first backward.
        last_forward_is_fresh: whether the last backward needs a forward of its own just before it.
    """

    keeps_graphs = True
    last_forward_is_fresh = False

    def step(self) -> AbstractContextManager[Any]:
        """Holds all backward calls of an optimizer step."""
        return contextlib.nullcontext()

    def micro_batch(self, last: bool) -> AbstractContextManager[Any]:
        """Holds the forward and backward pass of a micro-batch."""
        return contextlib.nullcontext()

    def backward(self, loss: Tensor, last: bool) -> None:
        loss.backward()


class ScaledAccumulation(Accumulation):
    """One process with fp16 gradient scaling, through ``accelerator.backward``."""

    def __init__(self, accelerator: Any) -> None:
        self._accelerator = accelerator

    def backward(self, loss: Tensor, last: bool) -> None:
        self._accelerator.backward(loss)


class DataParallelAccumulation(Accumulation):
    """DistributedDataParallel: ranks are synchronised in the last backward call alone.

    Its forward is what prepares that.
    """

    last_forward_is_fresh = True

    def __init__(self, model: DistributedDataParallel, accelerator: Any = None) -> None:
        self._model, self._accelerator = model, accelerator

    def micro_batch(self, last: bool) -> AbstractContextManager[Any]:
        return contextlib.nullcontext() if last else self._model.no_sync()

    def backward(self, loss: Tensor, last: bool) -> None:
        loss = loss * world_size()
        self._accelerator.backward(loss) if self._accelerator else loss.backward()


class CoalescedAccumulation(Accumulation):
    """DeepSpeed ZeRO 1 to 3: gradients are reduced once, at the end of the step.

    A plain sequence of ``engine.backward`` silently applies only the last micro-batch on ZeRO 1 and 2 (DeepSpeed
    0.18 and later); inside ``coalesce_grad_reduction`` full gradients add up on every rank and are reduced when the
    block ends. Those of half precision add up in float32, for a sum of 512 in bfloat16 is 3 % off, and one that is
    rounded in the end 0.2 %; this takes four bytes more for each trained weight.
    """

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self._sums: dict[nn.Parameter, Tensor] = {}

    @contextlib.contextmanager
    def step(self) -> Iterator[None]:
        with self._engine.coalesce_grad_reduction():
            yield
            for parameter, total in self._sums.items():
                assert parameter.grad is not None
                parameter.grad.copy_(total)
            self._sums.clear()

    def backward(self, loss: Tensor, last: bool) -> None:
        self._engine.backward(loss * world_size(), scale_wrt_gas=False)
        for parameter in self._engine.module.parameters():
            if parameter.grad is not None and parameter.grad.itemsize == 2:
                self._take(parameter, parameter.grad)

    def _take(self, parameter: nn.Parameter, gradient: Tensor) -> None:
        if parameter in self._sums:
            self._sums[parameter] += gradient
        else:
            self._sums[parameter] = gradient.float()
        gradient.zero_()  # in place: under ZeRO-3 a weight that is put away takes no gradient of its own size


class BoundaryAccumulation(Accumulation):
    """DeepSpeed with accumulation boundaries: ZeRO 0, and the low-memory mode of ZeRO 2 and 3.

    Gradients stay partitioned at the price of one reduction per micro-batch on ZeRO 2 and 3. On ZeRO-3 a backward
    after the forward of another micro-batch is silently wrong (measured, DeepSpeed 0.19.8).
    """

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self.keeps_graphs = engine.zero_optimization_stage() < 3

    def backward(self, loss: Tensor, last: bool) -> None:
        self._engine.set_gradient_accumulation_boundary(last)
        self._engine.backward(loss * world_size(), scale_wrt_gas=False)


class Part(Accumulation):
    """One of several global batches of an optimizer step, within the ``step`` block of the whole.

    Args:
        share: weight of its loss.
        last: whether the step ends with it.
    """

    def __init__(self, whole: Accumulation, *, share: float, last: bool) -> None:
        self._whole, self._share, self._last = whole, share, last
        self.keeps_graphs, self.last_forward_is_fresh = whole.keeps_graphs, whole.last_forward_is_fresh

    def micro_batch(self, last: bool) -> AbstractContextManager[Any]:
        return self._whole.micro_batch(last and self._last)

    def backward(self, loss: Tensor, last: bool) -> None:
        self._whole.backward(loss * self._share, last and self._last)


def accumulation_for(model: nn.Module, accelerator: Any = None, *, low_memory: bool = False) -> Accumulation:
    """The way that fits how ``model`` is wrapped.

    Args:
        model: a plain module, a ``DistributedDataParallel``, or a DeepSpeed engine.
        accelerator: an ``accelerate.Accelerator`` that scales fp16 losses.
        low_memory: reduce gradients at every micro-batch rather than hold full ones, under ZeRO 2 and 3.
    """
    if isinstance(model, DistributedDataParallel):
        return DataParallelAccumulation(model, accelerator)
    if hasattr(model, "coalesce_grad_reduction"):
        stage: int = model.zero_optimization_stage()  # pyright: ignore[reportCallIssue,reportAssignmentType]
        plain = stage == 0 or (low_memory and stage > 1)  # ZeRO-1 keeps full gradients either way
        return BoundaryAccumulation(model) if plain else CoalescedAccumulation(model)
    return ScaledAccumulation(accelerator) if accelerator is not None else Accumulation()
