"""One adapted weight at a time: peft's own layers do the arithmetic, so that it is peft's to the bit."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from polylens.engine.adapters import Adapter, Stored
from polylens.errors import InputError

_NAME = "default"


class LowRankLayers:
    """The adapted layers of a model that has no weights.

    Args:
        outline: the model on the meta device; adapters are put into it.

    Raises:
        InputError: the adapter lacks weights of a layer, they have another shape, or they cannot be merged.
    """

    def __init__(self, outline: PreTrainedModel, adapter: Adapter) -> None:
        self.layers = _adapted(outline, adapter)
        extra = [name for name in adapter.modules() if name not in self.layers]
        if extra:
            raise adapter.mismatch(f"by its configuration {extra[0]} is not adapted, and it has weights for it")
        self.stored = {name: _matched(adapter, name, layer) for name, layer in self.layers.items()}

    @property
    def weights(self) -> dict[str, str]:
        """Name of each adapted weight -> its layer."""
        return {f"{name}.weight": name for name in self.layers}

    @torch.no_grad()
    def merged(self, name: str, weight: Tensor) -> Tensor:
        """The weight of a layer with its update, as ``merge_and_unload`` computes it.

        Args:
            weight: of the base; it may be overwritten.
        """
        layer = self.layers[name]
        half = weight.dtype in (torch.float16, torch.bfloat16)
        update = torch.float32 if half else weight.dtype  # peft keeps half-precision adapters in float32
        outline = layer.state_dict()
        tensors = {key: stored.read().to(update) for key, stored in self.stored[name].items()}
        layer.load_state_dict({"base_layer.weight": weight, **tensors}, strict=False, assign=True)
        layer.merge()
        merged = layer.get_base_layer().weight.data
        layer.load_state_dict(outline, assign=True)  # lets go of the tensors, which layers hold in circles
        layer.merged_adapters.clear()
        layer._caches.clear()
        return merged


def _adapted(outline: PreTrainedModel, adapter: Adapter) -> dict[str, Any]:
    from peft import inject_adapter_in_model
    from peft.tuners.lora import LoraLayer

    if adapter.config.lora_bias:
        raise InputError(f"{adapter.folder}: an adapter with biases of its own (lora_bias) cannot be merged")
    try:
        inject_adapter_in_model(adapter.config, outline, _NAME, low_cpu_mem_usage=True)
    except ValueError as error:  # no layer of these names
        raise adapter.mismatch(str(error).partition(".")[0]) from error
    layers = {name: module for name, module in outline.named_modules() if isinstance(module, LoraLayer)}
    for name, layer in layers.items():
        if not isinstance(getattr(layer.get_base_layer(), "weight", None), Tensor):
            raise InputError(f"{adapter.folder}: {name} is adapted, which has no single weight to merge into")
    return layers


def _matched(adapter: Adapter, name: str, layer: nn.Module) -> dict[str, Stored]:
    """The stored weights of a layer by their names inside it."""
    own = {key: tensor for key, tensor in layer.state_dict().items() if key.startswith("lora_")}
    given, found = adapter.modules().get(name, {}), {}
    for key, tensor in own.items():
        short = key.replace(f".{_NAME}", "", 1)
        stored = given.get(short) or given.get(short.removesuffix(".weight"))  # a magnitude is stored without
        if stored is None:
            raise adapter.mismatch(f"{name}.{short} is not in it")
        if stored.entry.shape != tuple(tensor.shape):
            raise adapter.mismatch(
                f"{name}.{short} is {list(stored.entry.shape)} there, and the base needs {list(tensor.shape)}"
            )
        found[key] = stored
    return found
