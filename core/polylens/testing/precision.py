"""Float64 all the way, so that a check can ask for 1e-10."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


class Float64Throughout(TorchFunctionMode):
    """Lets what is float64 stay float64.

    Norms and rotary embeddings of transformers compute in float32 whatever the dtype of the model, which rounds
    gradients at 1e-8 and would hide mistakes below. Inside this context a cast of a float64 tensor to float32 does
    nothing; the backward pass must lie inside it too.

    >>> wide = torch.ones(1, dtype=torch.float64)
    >>> with Float64Throughout():
    ...     wide.float().dtype, wide.to(torch.float32).dtype, wide.softmax(0, dtype=torch.float32).dtype
    (torch.float64, torch.float64, torch.float64)
    """

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if args and isinstance(args[0], Tensor) and args[0].dtype is torch.float64:
            if func is Tensor.float:
                return args[0]
            args = (args[0], *(_wide(value) for value in args[1:]))
            kwargs = {name: _wide(value) for name, value in kwargs.items()}
        return func(*args, **kwargs)


def _wide(value: Any) -> Any:
    return torch.float64 if value is torch.float32 else value
