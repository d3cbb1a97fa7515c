"""How many weights a model has, and how many of them a run trains."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor
from transformers import PreTrainedModel

from polylens.contracts import ModelFamily
from polylens.engine.trainable import component_of

ADAPTER = ".lora_"
"""In the name of every weight of an adapter."""


@dataclass(frozen=True, slots=True)
class Count:
    """Numbers of a component.

    Attributes:
        weights: parameters and the buffers that a checkpoint holds.
        trained: parameters that the optimizer updates.
    """

    weights: int
    trained: int


@dataclass(frozen=True, slots=True)
class Parameters:
    """Numbers of a model.

    Attributes:
        components: component -> its own weights, without those of adapters.
        adapter: weights of the adapter, all of them trained.
    """

    components: dict[str, Count]
    adapter: int

    @property
    def weights(self) -> int:
        return self.adapter + sum(count.weights for count in self.components.values())

    @property
    def trained(self) -> int:
        return self.adapter + sum(count.trained for count in self.components.values())


def count_parameters(model: PreTrainedModel, family: ModelFamily) -> Parameters:
    """Count a model, on any device, by component; a weight that two modules share counts once."""
    components, adapter = {}, 0
    for name in family.components:
        own = [(n, tensor) for n, tensor in saved_tensors(model) if component_of(n, family) == name]
        base = [tensor for n, tensor in own if ADAPTER not in n]
        adapter += sum(tensor.numel() for n, tensor in own if ADAPTER in n)
        trained = sum(tensor.numel() for tensor in base if tensor.requires_grad)
        components[name] = Count(sum(tensor.numel() for tensor in base), trained)
    return Parameters(components, adapter)


def saved_tensors(model: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """Parameters, then the buffers that a checkpoint holds."""
    yield from model.named_parameters()
    saved = model.state_dict().keys()
    yield from ((name, buffer) for name, buffer in model.named_buffers() if name in saved)
