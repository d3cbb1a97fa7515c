"""Where a model comes from: a folder, a preset of its family, an adapter over a base, or a hub id."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polylens.config.card import ModelCard
from polylens.config.json_text import read_json_object
from polylens.contracts import ModelFamily
from polylens.errors import InputError, closest

_HUB_FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
"""What is downloaded of a hub repository: no code, and no pickled weights."""

_MAX_LAYERS = 10_000


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A model that was found, not yet loaded.

    Attributes:
        folder: with ``config.json`` and a tokenizer; weights too, unless it is a preset.
        config: content of ``config.json``.
        family: that recognises it.
        is_preset: the weights are drawn at random.
        adapter: folder of a LoRA adapter over this model.
        card: ``polylens.json`` of the adapter, or of the model folder.
    """

    folder: Path
    config: dict[str, Any]
    family: ModelFamily
    is_preset: bool = False
    adapter: Path | None = None
    card: ModelCard | None = None


def find_model(source: str, families: Sequence[ModelFamily], plugin: str) -> ModelSource:
    """Find what ``source`` names: an existing folder first, then a preset, then a hub id.

    Raises:
        InputError: nothing of that name, or a checkpoint that no family of the plugin recognises.
    """
    folder = Path(source).expanduser()
    if not folder.is_dir():
        return _preset(source, families, plugin) or _checkpoint(_download(source, families, plugin), families, plugin)
    if (folder / "adapter_config.json").is_file():
        return _adapter(folder, families, plugin)
    return _checkpoint(folder, families, plugin)


def _preset(source: str, families: Sequence[ModelFamily], plugin: str) -> ModelSource | None:
    """A preset, as ``name`` or, if several families have one of that name, ``family/name``."""
    found = [family for family in families if source in family.presets or _qualified(source, family)]
    if not found:
        return None
    family = found[0]  # the plugin lists the family that a bare name stands for first
    folder = Path(family.presets[source.removeprefix(f"{family.name}/")])
    return ModelSource(folder, _config(folder), family, is_preset=True)


def _qualified(source: str, family: ModelFamily) -> bool:
    return source.startswith(f"{family.name}/") and source.removeprefix(f"{family.name}/") in family.presets


def _checkpoint(folder: Path, families: Sequence[ModelFamily], plugin: str) -> ModelSource:
    config = _config(folder)
    found = [family for family in families if family.recognises(config)]
    if len(found) != 1:
        names = ", ".join(family.name for family in found or families)
        kind = f"{config.get('model_type')!r} (architectures {config.get('architectures')})"
        problem = "more than one family recognises it" if found else f"it is none of the families of plugin {plugin!r}"
        raise InputError(f"{folder}: a checkpoint of model_type {kind}: {problem}: {names}")
    return ModelSource(folder, config, found[0], card=ModelCard.read(folder))


def _adapter(folder: Path, families: Sequence[ModelFamily], plugin: str) -> ModelSource:
    card = ModelCard.read(folder)
    base = (
        card.base_model
        if card and card.base_model
        else read_json_object(folder / "adapter_config.json").get("base_model_name_or_path")
    )
    if not base:
        raise InputError(f"{folder}: an adapter that does not say over which model: set base_model in polylens.json")
    if (Path(str(base)).expanduser() / "adapter_config.json").is_file():
        raise InputError(f"{folder}: the base of this adapter, {base}, is an adapter itself: merge that one first")
    try:
        found = find_model(str(base), families, plugin)
    except InputError as error:
        raise InputError(f"{folder}: the base of this adapter cannot be found: {error}") from error
    return ModelSource(found.folder, found.config, found.family, found.is_preset, folder, card)


def _download(source: str, families: Sequence[ModelFamily], plugin: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    presets = [name for family in families for name in family.presets]
    if "/" not in source:
        raise InputError(
            f"no model {source!r}: it is no folder, no preset of plugin {plugin!r} ({', '.join(presets)})"
            f"{closest(source, presets)}, and no hub id (owner/name)"
        )
    try:
        return Path(snapshot_download(source, allow_patterns=_HUB_FILES))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"no model {source!r}: no such folder, and the hub does not give it: {reason}") from error


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        raise InputError(f"{folder} has no config.json: it is not a model folder")
    config = read_json_object(path)
    _check_layers(config, path)
    return config


def _check_layers(config: dict[str, Any], path: Path, pointer: str = "") -> None:
    """Refuse a depth that no model has: layers are built one by one before their weights are looked for."""
    for key, value in config.items():
        if isinstance(value, dict):
            _check_layers(value, path, f"{pointer}/{key}")
        elif "layer" in key and isinstance(value, int) and value > _MAX_LAYERS:
            raise InputError(f"{path}: {pointer}/{key} is {value}; at most {_MAX_LAYERS} layers are allowed")
