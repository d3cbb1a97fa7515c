"""Which weights are trained: components, and LoRA adapters over them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from polylens.config.run import LoraSettings
from polylens.contracts import ALL_LINEAR, ModelFamily, Objective
from polylens.engine.adapters import names_under, saved_modules
from polylens.engine.weights import has_adapter
from polylens.errors import InputError, closest


def choose_trained(
    model: PreTrainedModel,
    family: ModelFamily,
    objective: Objective,
    tune: Sequence[str] | None,
    lora: LoraSettings,
    first_layers: Mapping[str, Any] | None = None,
) -> None:
    """Set ``requires_grad`` of every weight, and add adapters if LoRA is on.

    Without ``tune``, every component is trained, or none but the adapter if there is one. What the objective never
    reaches (the output head, for an objective of hidden states) is frozen, so that no optimizer state is kept for it;
    so are weights that the model itself declares fixed.

    Args:
        first_layers: component -> its first layer that is trained; what lies before it stays frozen, and what the
            component has outside its layers.

    Raises:
        InputError: a component that the family does not have, or a layer that it has not; nothing is left to train.
    """
    check_components(family, [*(tune or []), *(lora.components if lora.enable else [])])
    adapted = has_adapter(model)
    # An adapter that was loaded has frozen all that lies under it, so what the model itself fixes cannot be told.
    fixed = set() if adapted else {id(parameter) for parameter in model.parameters() if not parameter.requires_grad}
    if lora.enable and not adapted:
        _add_lora(model, family, lora)
    components = tune if tune is not None else () if lora.enable or adapted else tuple(family.components)
    saved = _save_modules(model, family, lora)
    _check_first_layers(model, family, components, first_layers or {})
    for name, parameter in model.named_parameters():
        chosen = name in saved or _is_tuned(name, family, components, first_layers or {})
        wanted = chosen and id(parameter) not in fixed
        parameter.requires_grad_(wanted or ".lora_" in name)
    _freeze_unreached(model, objective)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise InputError("nothing is left to train: name components with --tune, or switch LoRA on")


def _is_tuned(name: str, family: ModelFamily, components: Sequence[str], first_layers: Mapping[str, int]) -> bool:
    component, layer = component_of(name, family), _layer(name)
    if component is None or component not in components:
        return False
    return component not in first_layers or (layer is not None and layer >= first_layers[component])


def _check_first_layers(
    model: nn.Module, family: ModelFamily, components: Sequence[str], first_layers: Mapping[str, Any]
) -> None:
    check_components(family, first_layers)
    for component, first in first_layers.items():
        if component not in components:
            raise InputError(f"tune_from_layer: {component} is not trained: add it to --tune, or leave it out")
        own = [name for name, _ in model.named_parameters() if component_of(name, family) == component]
        count = len({layer for name in own if (layer := _layer(name)) is not None})
        if isinstance(first, bool) or not isinstance(first, int) or not 0 <= first < count:
            allowed = f"it must be one of its layers, 0 to {count - 1}" if count else "it has no layers"
            raise InputError(f"tune_from_layer: /{component} is {first!r}; {allowed}")


def check_components(family: ModelFamily, names: Iterable[str]) -> None:
    for name in names:
        if name not in family.components:
            raise InputError(
                f"model family {family.name!r} has no component {name!r}{closest(name, family.components)}; "
                f"it has: {', '.join(family.components)}"
            )


def component_of(parameter: str, family: ModelFamily) -> str | None:
    """The component that a parameter belongs to, by the longest module path that leads to it."""
    best, owner = -1, None
    for component, paths in family.components.items():
        for path in paths:
            if (parameter == path or parameter.startswith(path + ".")) and len(path) > best:
                best, owner = len(path), component
    return owner


def _add_lora(model: PreTrainedModel, family: ModelFamily, lora: LoraSettings) -> None:
    from peft import LoraConfig

    targets = lora_targets(model, family, lora)
    model.add_adapter(
        LoraConfig(
            r=lora.r,
            lora_alpha=lora.alpha,  # pyright: ignore[reportArgumentType]  # peft takes any number
            lora_dropout=lora.dropout,
            use_dora=lora.dora,
            target_modules=targets,  # type: ignore[arg-type]
        ),
        adapter_name="default",
    )


def _save_modules(model: PreTrainedModel, family: ModelFamily, lora: LoraSettings) -> set[str]:
    """Parameters of ``modules_to_save``, which the adapter is told to hold; it wraps no module for that."""
    if not lora.modules_to_save:
        return set()
    if not has_adapter(model):
        raise InputError("lora.modules_to_save is for adapters: switch LoRA on, or name components with --tune")
    names = [name for name, _ in model.named_parameters()]
    for module in lora.modules_to_save:
        if not names_under([module], names):
            raise InputError(f"lora.modules_to_save: no module of model family {family.name!r} is named {module!r}")
    config: Any = model.peft_config["default"]
    config.modules_to_save = sorted({*saved_modules(model), *lora.modules_to_save})
    return names_under(lora.modules_to_save, names)


def lora_targets(model: nn.Module, family: ModelFamily, lora: LoraSettings) -> list[str]:
    """Full names of the linear layers that get an adapter.

    Raises:
        InputError: no linear layer of the components has one of the names.
    """
    found = []
    for name, module in model.named_modules():
        component = component_of(name, family)
        names = lora.target_modules or family.lora_targets.get(component or "", ())
        wanted = component in lora.components and _in_layers(name, lora.layers)
        if wanted and isinstance(module, nn.Linear) and is_target(name, module, model, names):
            found.append(name)
    if not found:
        raise InputError(
            f"LoRA finds no linear layer named {', '.join(lora.target_modules or []) or 'by the family'} in "
            f"{', '.join(lora.components)} of model family {family.name!r}"
            f"{'' if lora.layers is None else f' and its layers {lora.layers}'}"
        )
    return found


def is_target(name: str, layer: nn.Linear, model: Any, names: Iterable[str]) -> bool:
    """Whether names of targets mean a layer; ``ALL_LINEAR`` means all but the output head."""
    if ALL_LINEAR in names and layer is not model.get_output_embeddings():
        return True
    return _ends_in(name, names)


def _in_layers(name: str, layers: Sequence[int] | None) -> bool:
    return layers is None or _layer(name) in layers


def _layer(name: str) -> int | None:
    """The first number of a path: of a layer in its stack."""
    number = re.search(r"\.(\d+)\.", name)
    return None if number is None else int(number[1])


def _ends_in(name: str, suffixes: Iterable[str]) -> bool:
    return any(re.search(rf"(^|\.){re.escape(suffix)}$", name) for suffix in suffixes)


def _freeze_unreached(model: PreTrainedModel, objective: Objective) -> None:
    head = model.get_output_embeddings()
    embedding = model.get_input_embeddings()
    tied = head is not None and embedding is not None and head.weight is embedding.weight
    if head is not None and not tied and "logits" not in objective.inputs_needed:
        head.requires_grad_(False)
