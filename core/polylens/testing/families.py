"""Checks of what a family says about itself."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from typing import Any

from polylens.testing.results import require
from polylens.testing.subject import Subject

COMPONENTS = ("vision", "connector", "llm", "embed_tokens")
_BOOKKEEPING = {"transformers_version", "architectures", "dtype", "torch_dtype", "auto_map", "_name_or_path"}


def hooks_import_no_heavy_library(subject: Subject) -> str | None:
    """Importing the plugin and asking for its families loads neither torch nor transformers.

    ``polylens plugins list`` imports every plugin; import heavy libraries inside the hooks that need them.
    """
    program = (
        "import sys; from polylens import plugins; "
        f"plugins.load({subject.plugin!r}).families(); "
        "print(*sorted({'torch', 'transformers'} & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    require(ran.returncode == 0, f"the plugin fails to load in a fresh process: {ran.stderr.strip()[-300:]}")
    loaded = ran.stdout.split()
    require(not loaded, f"listing the plugin imports {' and '.join(loaded)}; import them inside the hooks")
    return None


def tiny_preset_is_complete(subject: Subject) -> str | None:
    """The family has a preset ``tiny``, a folder with ``config.json`` and no weights."""
    require("tiny" in subject.family.presets, "there is no preset named 'tiny'")
    for name, folder in subject.family.presets.items():
        require((folder / "config.json").is_file(), f"preset {name!r}: {folder} has no config.json")
        weights = [path.name for path in folder.iterdir() if path.suffix in (".safetensors", ".bin", ".pt")]
        require(not weights, f"preset {name!r} holds weights ({', '.join(weights)}); presets start from random ones")
    return None


def configs_are_recognised_by_one_family(subject: Subject) -> str | None:
    """``config.json`` is recognised by this family and by no other one of the plugin; strange ones by none."""
    found = [family.name for family in subject.families if family.recognises(subject.config)]
    require(found == [subject.family.name], f"config.json is recognised by {found or 'no family'}")
    for strange in ({}, {"model_type": "bert", "architectures": ["BertModel"]}):
        require(not subject.family.recognises(strange), f"the family claims the configuration {strange}")
    return None


def options_have_defaults(subject: Subject) -> str | None:
    """``options`` is a dataclass that can be made without arguments, and from its own values."""
    from polylens.config.options import build_options

    kind = subject.family.options
    require(dataclasses.is_dataclass(kind), f"options is {kind!r}, not a dataclass")
    missing = [f.name for f in dataclasses.fields(kind) if not _has_default(f)]
    require(not missing, f"options without a default: {', '.join(missing)}")
    made = kind()
    again = build_options(kind, dataclasses.asdict(made), "options")
    require(again == made, f"options read back from their own values differ: {again} instead of {made}")
    return f"{len(dataclasses.fields(kind))} options"


def _has_default(field: dataclasses.Field[Any]) -> bool:
    return field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING


def layouts_are_well_formed(subject: Subject) -> str | None:
    """At least one checkpoint layout, names unique, renames are regular expressions."""
    layouts = subject.family.layouts
    require(layouts, "the family has no checkpoint layout")
    names = [layout.name for layout in layouts]
    require(len(set(names)) == len(names), f"two layouts share a name: {', '.join(names)}")
    for layout in layouts:
        for pattern in layout.renames:
            try:
                re.compile(pattern)
            except re.error as error:
                require(False, f"layout {layout.name!r}: {pattern!r} is no regular expression: {error}")
    return None


def components_cover_the_model(subject: Subject) -> str | None:
    """Components are named as the core names them, their modules exist, and every parameter lies in one."""
    components = subject.family.components
    strange = sorted(set(components) - set(COMPONENTS))
    require(not strange, f"unknown components {', '.join(strange)}; the core knows {', '.join(COMPONENTS)}")
    model = outline(subject)
    modules = dict(model.named_modules())
    for name, paths in components.items():
        for path in paths:
            require(path in modules, f"component {name!r}: the model has no module {path!r}")
    paths = [path for group in components.values() for path in group]
    outside = [n for n, _ in model.named_parameters() if not any(n.startswith(path + ".") for path in paths)]
    require(not outside, f"{len(outside)} parameters lie in no component, such as {', '.join(outside[:3])}")
    return f"{sum(1 for _ in model.parameters())} parameters"


def lora_targets_exist(subject: Subject) -> str | None:
    """Every name in ``lora_targets`` ends the name of a linear layer of its component."""
    from torch import nn

    from polylens.engine.trainable import component_of, is_target

    family, model = subject.family, outline(subject)
    linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    for component, targets in family.lora_targets.items():
        require(component in family.components, f"lora_targets names {component!r}, which is no component")
        own = [name for name in linear if component_of(name, family) == component]
        for target in targets:
            found = any(is_target(name, linear[name], model, [target]) for name in own)
            require(found, f"component {component!r} has no linear layer {target!r}")
    return None


def build_model_makes_no_real_tensor(subject: Subject) -> str | None:
    """Under ``torch.device("meta")`` the constructor allocates nothing.

    So ``polylens estimate`` measures models that do not fit, and weights are loaded once. Create tensors through
    torch's factory functions, without a device of their own.
    """
    model = outline(subject)
    tensors = [*model.named_parameters(), *model.named_buffers()]
    real = [name for name, tensor in tensors if not tensor.is_meta]
    require(not real, f"{len(real)} tensors are real, such as {', '.join(real[:3])}")
    return None


def config_comes_back(subject: Subject) -> str | None:
    """``model.config.to_dict()`` gives back every value of ``config.json``, and is recognised by the family.

    A value may move into a sub-configuration, as transformers moves those of old checkpoints.
    """
    written = outline(subject).config.to_dict()
    require(subject.family.recognises(written), "the family does not recognise model.config.to_dict()")
    lost = sorted(_lost(subject.config, written))
    require(not lost, f"config.to_dict() loses or changes: {'; '.join(lost[:5])}")
    return None


def _lost(wanted: dict[str, Any], found: dict[str, Any], where: str = "") -> list[str]:
    lost = []
    for key, value in wanted.items():
        if key in _BOOKKEEPING:
            continue
        path = f"{where}/{key}"
        if isinstance(value, dict) and isinstance(found.get(key), dict):
            lost += _lost(value, found[key], path)
        elif not _same(value, found.get(key)) and not _moved(key, value, found):
            lost.append(f"{path} is {found.get(key)!r}, not {value!r}")
    return lost


def _same(a: Any, b: Any) -> bool:
    return list(a) == list(b) if isinstance(a, list | tuple) and isinstance(b, list | tuple) else a == b


def _moved(key: str, value: Any, found: dict[str, Any]) -> bool:
    return any(isinstance(part, dict) and key in part and _same(value, part[key]) for part in found.values())


def outline(subject: Subject) -> Any:
    """The model on the meta device."""
    import torch

    with torch.device("meta"):
        return subject.hooks.build_model(family=subject.family, config=subject.config)


CHECKS = (
    hooks_import_no_heavy_library,
    tiny_preset_is_complete,
    configs_are_recognised_by_one_family,
    options_have_defaults,
    layouts_are_well_formed,
    components_cover_the_model,
    lora_targets_exist,
    build_model_makes_no_real_tensor,
    config_comes_back,
)
