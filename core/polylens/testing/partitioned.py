"""What ZeRO-3 does to a model, on one process: a weight is there only while the module that owns it is called."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class Partitioned:
    """Inside the context every weight is empty, except during calls of its owner; gradients are out of reach.

    Attributes:
        called: names of modules that own weights and were called.
    """

    def __init__(self, model: nn.Module) -> None:
        self.called: set[str] = set()
        self._names = {
            m: name for name, m in model.named_modules() if next(m.parameters(recurse=False), None) is not None
        }
        self._whole = {weight: weight.data for weight in model.parameters()}
        self._handles: list[Any] = []

    def __enter__(self) -> Partitioned:
        for module in self._names:
            self._release(module)
            self._handles.append(module.register_forward_pre_hook(self._gather))
            self._handles.append(module.register_forward_hook(self._release))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        for weight, data in self._whole.items():
            weight.data = data

    def _gather(self, module: nn.Module, _: Any) -> None:
        self.called.add(self._names[module])
        for weight in module.parameters(recurse=False):
            weight.data = self._whole[weight]

    def _release(self, module: nn.Module, *_: Any) -> None:
        for weight in module.parameters(recurse=False):
            weight.data = torch.empty(0, dtype=weight.dtype)
