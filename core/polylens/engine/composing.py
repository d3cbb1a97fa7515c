"""A new model out of a language model and a vision tower; the connector between them starts at random."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from polylens import plugins
from polylens.composition import Composition, PartFiles
from polylens.config.card import ModelCard
from polylens.config.json_text import read_json_object
from polylens.contracts import ModelFamily
from polylens.engine.borrowing import name_in_model
from polylens.engine.failures import explained
from polylens.engine.frontend import load_frontend
from polylens.engine.merge.folder import new_folder
from polylens.engine.saving import copy_small_files
from polylens.engine.sources import PROCESSOR, ModelSource, find_folder
from polylens.engine.tensor_files import PartFile, part_files
from polylens.engine.trainable import component_of
from polylens.engine.weights import named_dtype, outline_of, write_first_layout
from polylens.errors import InputError

CONNECTOR = "connector"


@dataclass(frozen=True, slots=True)
class Composed:
    """What composing leaves behind.

    Attributes:
        folder: a complete model folder.
        parameters: numbers in its weights.
        connector: how many of them start at random.
    """

    folder: Path
    parameters: int
    connector: int

    def __str__(self) -> str:
        return f"a model of {self.parameters:,} weights, {self.connector:,} of them new, is in {self.folder}"


def compose(
    plugin: str,
    parts: Mapping[str, str],
    connector: str,
    output: str | Path,
    *,
    seed: int = 0,
    dtype: str = "auto",
    connector_weights: str | Path | None = None,
) -> Composed:
    """Write a model folder in the first layout of the plugin's family, with the tokenizer of the language model.

    Args:
        plugin: whose family the model is of.
        parts: ``llm``, ``vision`` and perhaps ``second_vision`` -> folder or hub id.
        connector: its name, as the family knows it.
        seed: of the connector's weights.
        dtype: of the weights; ``auto`` is that of the language model.
        connector_weights: file of a connector that was trained before, such as the original's ``mm_projector.bin``.

    Raises:
        InputError: the plugin composes no models; a part is missing, lacks weights or does not fit; ``output`` exists.
    """
    hooks = plugins.load(plugin)
    family, how = _composing_family(hooks.families(), plugin)
    _check(parts, connector, family, how)
    folders = {name: find_folder(source, [family], plugin) for name, source in parts.items()}
    files = {name: PartFiles(config, _processor(folder)) for name, (folder, config) in folders.items()}
    llm, llm_config = folders["llm"]
    found = ModelSource(llm, how.config(files, connector), family)
    front = load_frontend(hooks, found)
    outline = outline_of(hooks, found)
    state = {}
    for name, (folder, _) in folders.items():
        state |= _weights(name, folder, how.parts[name], outline)
    if connector_weights is not None:
        state |= _connector(Path(connector_weights), family, outline)
    with explained("then compose again"), new_folder(Path(output)) as partial:
        model = _model(outline, found, state, seed, named_dtype(dtype, llm_config))
        copy_small_files(llm, partial)
        model.save_pretrained(partial)
        options = dataclasses.asdict(front.options)
        ModelCard(plugin=plugin, family=family.name, options=options, **family.defaults).save(partial)
    new = sum(
        weight.numel()
        for name, weight in model.named_parameters()
        if component_of(name, family) == CONNECTOR and name not in state
    )
    return Composed(Path(output), sum(weight.numel() for weight in model.parameters()), new)


def _composing_family(families: Any, plugin: str) -> tuple[ModelFamily, Composition]:
    for family in families or ():
        if family.composition is not None:
            return family, family.composition
    raise InputError(f"plugin {plugin!r} composes no models: its models are always loaded whole")


def _check(parts: Mapping[str, str], connector: str, family: ModelFamily, how: Composition) -> None:
    for name in parts:
        if name not in how.parts:
            raise InputError(f"model family {family.name!r} has no part {name!r}; it has: {', '.join(how.parts)}")
    if not connector:
        raise InputError(f"no connector is named; it may be {', '.join(how.connectors)}")
    for name in ("llm", "vision"):
        if name not in parts:
            raise InputError(f"a model needs a language model and a vision tower: --{name} is missing")


def _processor(folder: Path) -> Mapping[str, Any]:
    return read_json_object(folder / PROCESSOR) if (folder / PROCESSOR).is_file() else {}


def _weights(part: str, folder: Path, prefixes: tuple[str, ...], outline: PreTrainedModel) -> dict[str, Tensor]:
    """The weights of a part that the model has, by their names in the model."""
    known = outline.state_dict().keys()

    def whole(key: str) -> str | None:
        return next((prefix + key for prefix in prefixes if prefix + key in known), None)

    state = {}
    for file in part_files(folder, whole):
        with file.reading() as read:
            state |= {name: read(name) for name in file.entries}
    if not state:
        raise InputError(f"{folder}: none of its weights has the name of one of a {part} in this model")
    return state


def _connector(path: Path, family: ModelFamily, outline: PreTrainedModel) -> dict[str, Tensor]:
    """All weights of the connector, by their names in the model.

    Raises:
        InputError: the file cannot be read, or holds another connector.
    """
    if not path.is_file():
        raise InputError(f"{path}: there is no such file of a connector")
    wanted = {name for name, _ in outline.named_parameters() if component_of(name, family) == CONNECTOR}

    def whole(key: str) -> str | None:
        name = name_in_model(family, key)
        return name if name in wanted else None

    file = PartFile(path, whole)
    if missing := sorted(wanted - file.entries.keys()):
        raise InputError(f"{path} is no file of this connector: it lacks {missing[0]}")
    with file.reading() as read:
        return {name: read(name) for name in file.entries}


def _model(
    outline: PreTrainedModel, found: ModelSource, state: dict[str, Tensor], seed: int, dtype: torch.dtype
) -> PreTrainedModel:
    kind, config = type(outline), outline.config
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        loaded: Any = kind.from_pretrained(
            None, config=config, state_dict=state, dtype=dtype, output_loading_info=True, ignore_mismatched_sizes=True
        )
    model, report = loaded
    _require_fit(report, found)
    write_first_layout(model, found.family)
    return model


def _require_fit(report: Mapping[str, Any], found: ModelSource) -> None:
    """Whether every weight but the connector's came from a part, in the shape that its ``config.json`` says."""
    for key, there, here in sorted(report["mismatched_keys"]):
        raise InputError(f"{key} is {list(there)} in the files of its part and {list(here)} by its config.json")
    missing = sorted(key for key in report["missing_keys"] if component_of(key, found.family) != CONNECTOR)
    if missing:
        raise InputError(f"{len(missing)} weights are in no part, such as {', '.join(missing[:3])}")
