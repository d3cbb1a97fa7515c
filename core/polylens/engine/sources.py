"""Where a model comes from: a folder, a preset of its family, an adapter over a base, or a hub id."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from polylens.composition import Borrowed, PartFiles
from polylens.config.card import ModelCard
from polylens.config.json_text import read_json_object
from polylens.contracts import ModelFamily
from polylens.engine.tensor_files import holds_weights
from polylens.errors import InputError, closest

_SMALL_FILES = ["*.json", "*.model", "*.txt", "*.jinja"]
_HUB_FILES = [*_SMALL_FILES, "*.safetensors"]
"""What is downloaded of a hub repository: no code, and no pickled weights."""

ADAPTER = "adapter_config.json"
"""The file that tells an adapter folder from a model folder."""

PROCESSOR = "preprocessor_config.json"
"""What a model folder says of how its pictures are made."""

_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")
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
        base: what the model under the adapter was found by.
        card: ``polylens.json`` of the adapter, or of the model folder.
        parts: folders in ``folder`` that hold its weights, if they are not in ``folder`` itself, each with what its
            names begin with in the model.
        weights: another folder that holds the weights of its language model, if ``folder`` has none.
        borrowed: components whose weights are elsewhere as far as neither folder holds them.
    """

    folder: Path
    config: dict[str, Any]
    family: ModelFamily
    is_preset: bool = False
    adapter: Path | None = None
    card: ModelCard | None = None
    base: str | None = None
    parts: Mapping[str, str] = field(default_factory=dict)
    weights: Path | None = None
    borrowed: Mapping[str, Borrowed] = field(default_factory=dict)

    @property
    def folders(self) -> tuple[Path, ...]:
        """Where the small files of the model are, those that count least first."""
        return (self.folder,) if self.weights is None else (self.weights, self.folder)

    @property
    def tokenizer(self) -> Path:
        """The folder with the tokenizer: a projector or an adapter may lie without one."""
        holding = [folder for folder in self.folders if any((folder / name).is_file() for name in _TOKENIZERS)]
        return holding[-1] if holding else self.folder


def find_model(
    source: str,
    families: Sequence[ModelFamily],
    plugin: str,
    base: str | None = None,
    *,
    with_weights: bool = True,
    options: Mapping[str, Any] | None = None,
) -> ModelSource:
    """Find what ``source`` names: an existing folder first, then a preset, then a hub id.

    Args:
        base: model under the adapter that ``source`` is, instead of the one that the adapter names; or the language
            model of a checkpoint that holds everything but that.
        with_weights: whether the weights of a hub id are downloaded too.
        options: of the family, over those that ``polylens.json`` names: some say where parts of the model are.

    Raises:
        InputError: nothing of that name, a checkpoint that no family of the plugin recognises, an adapter for another
            family, a base for what is no adapter.
    """
    folder = Path(source).expanduser()
    if (folder / ADAPTER).is_file():
        return _adapter(folder, families, plugin, base, with_weights, options)
    if folder.is_dir():
        found = _checkpoint(folder, families, plugin, options)
        if _lacks_language_model(found):
            return _over_language_model(found, base or found.borrowed["llm"].source, families, plugin, with_weights)
    if base is not None:
        raise InputError(f"{source} is no adapter folder: it takes no base")
    if not folder.is_dir():
        preset = _preset(source, families, plugin)
        return preset or _checkpoint(_download(source, families, plugin, with_weights), families, plugin, options)
    return found


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


def _checkpoint(
    folder: Path, families: Sequence[ModelFamily], plugin: str, options: Mapping[str, Any] | None
) -> ModelSource:
    config = _config(folder)
    found = [family for family in families if family.recognises(config)]
    if len(found) != 1:
        names = ", ".join(family.name for family in found or families)
        kind = f"{config.get('model_type')!r} (architectures {config.get('architectures')})"
        problem = "more than one family recognises it" if found else f"it is none of the families of plugin {plugin!r}"
        raise InputError(f"{folder}: a checkpoint of model_type {kind}: {problem}: {names}")
    card = ModelCard.read(folder)
    made = ModelSource(folder, config, found[0], card=card, parts=_parts(folder, found[0]))
    return _with_lenders(made, options)


def _with_lenders(found: ModelSource, options: Mapping[str, Any] | None) -> ModelSource:
    """The same with what its family says of parts that are elsewhere, and of their sizes what can be found."""
    if found.family.borrows is None:
        return found
    known = {**(found.card.options if found.card else {}), **(options or {})}
    borrowed, config = found.family.borrows(found.config, known), dict(found.config)
    found = dataclasses.replace(found, borrowed=borrowed)
    for name, part in borrowed.items():
        if part.described is not None and part.source:
            folder = find_lender(found, name, with_weights=False)
            processor = folder / PROCESSOR
            files = PartFiles(_config(folder), read_json_object(processor) if processor.is_file() else {})
            config |= part.described(files)
    return dataclasses.replace(found, config=config)


def find_lender(found: ModelSource, component: str, *, with_weights: bool = True) -> Path:
    """The folder of the model that lends a component to a checkpoint: a path as it is written, a folder of its name
    in or beside that of the checkpoint, or a hub id.

    Raises:
        InputError: there is none.
    """
    part = found.borrowed[component]
    near = [Path(part.source).expanduser(), *(place / Path(part.source).name for place in _around(found.folder))]
    folder = next((path for path in near if part.source and (path / "config.json").is_file()), None)
    if folder is not None:
        return folder
    how = f": name its folder with the option {part.option} of the family" if part.option else ""
    if not part.source:
        raise InputError(f"{found.folder}: it holds no weights of its {component}, and names no model that does{how}")
    try:
        return _download(part.source, [found.family], "", with_weights)
    except InputError as error:
        raise InputError(
            f"{found.folder}: its {component} is that of {part.source!r}, which is no folder here, nor in or beside "
            f"that of the model, and the hub does not give it{how}"
        ) from error


def _around(folder: Path) -> tuple[Path, Path]:
    return folder, folder.resolve().parent


def _lacks_language_model(found: ModelSource) -> bool:
    """Whether a folder holds the files of its connector, and no model."""
    if holds_weights(found.folder) or found.parts or "llm" not in found.borrowed:
        return False
    return any((found.folder / name).is_file() for part in found.borrowed.values() for name in part.files)


def _over_language_model(
    found: ModelSource, base: str, families: Sequence[ModelFamily], plugin: str, with_weights: bool
) -> ModelSource:
    if not base:
        raise InputError(f"{found.folder}: it holds no language model, and names none: give it as --base")
    near = [Path(base).expanduser(), *(place / Path(base).name for place in _around(found.folder))]
    folder = next((path for path in near if holds_weights(path)), None)
    try:
        folder = folder or find_folder(base, families, plugin)[0] if with_weights else folder
    except InputError as error:
        raise InputError(
            f"{found.folder}: its language model {base!r} cannot be found: {error}; if it lies elsewhere by now, give "
            "it as --base"
        ) from error
    return dataclasses.replace(found, weights=folder, base=base)


def _parts(folder: Path, family: ModelFamily) -> Mapping[str, str]:
    """The parts of the first layout whose folders are all there, unless the model lies there as a whole."""
    if not holds_weights(folder):
        for layout in family.layouts:
            if layout.parts and all(holds_weights(folder / name) for name in layout.parts):
                return layout.parts
    return {}


def _adapter(
    folder: Path,
    families: Sequence[ModelFamily],
    plugin: str,
    base: str | None,
    with_weights: bool,
    options: Mapping[str, Any] | None,
) -> ModelSource:
    card = ModelCard.read(folder)
    options = {**(card.options if card else {}), **(options or {})}
    own = _own_base(folder, families) if base is None else None
    own = own or _own_language_model(folder, families, plugin, base, with_weights, options)
    if own is not None:
        return dataclasses.replace(own, adapter=folder, card=card, base=str(folder))
    named = (card.base_model if card else None) or adapter_base(folder)
    wanted = base or named
    if not wanted:
        raise InputError(
            f"{folder}: an adapter that does not say over which model: set base_model_name_or_path in {ADAPTER}, or "
            "give it as --base"
        )
    own = _own_base(Path(wanted).expanduser(), families)
    if own is None and (Path(wanted).expanduser() / ADAPTER).is_file():
        raise InputError(f"{folder}: the base of this adapter, {wanted}, is an adapter itself: merge that one first")
    try:
        found = own or find_model(wanted, families, plugin, with_weights=with_weights, options=options)
    except InputError as error:
        hint = "" if base else "; if it lies elsewhere by now, give it as --base"
        raise InputError(f"{folder}: the base of this adapter cannot be found: {error}{hint}") from error
    if card is not None and card.family != found.family.name:
        raise InputError(
            f"{folder}: an adapter for {named or 'a model'} of family {card.family!r}; {wanted} is of family "
            f"{found.family.name!r}"
        )
    return dataclasses.replace(found, adapter=folder, card=card or found.card, base=wanted)


def _own_base(folder: Path, families: Sequence[ModelFamily]) -> ModelSource | None:
    """The base that an adapter folder holds itself, in parts."""
    if not (folder / ADAPTER).is_file() or not (folder / "config.json").is_file():
        return None
    config = _config(folder)
    for family in families:
        if family.recognises(config) and _parts(folder, family):
            return ModelSource(folder, config, family, parts=_parts(folder, family))
    return None


def _own_language_model(
    folder: Path,
    families: Sequence[ModelFamily],
    plugin: str,
    base: str | None,
    with_weights: bool,
    options: Mapping[str, Any] | None,
) -> ModelSource | None:
    """The base of an adapter folder that holds all of it but the language model, which the adapter names."""
    if not (folder / "config.json").is_file():
        return None
    config = _config(folder)
    family = next((family for family in families if family.recognises(config)), None)
    if family is None or family.borrows is None:
        return None
    found = _with_lenders(ModelSource(folder, config, family, card=ModelCard.read(folder)), options)
    named = base or adapter_base(folder) or ""
    if not _lacks_language_model(found) or _is_known(named, families):
        return None
    return _over_language_model(found, named, families, plugin, with_weights)


def _is_known(source: str, families: Sequence[ModelFamily]) -> bool:
    """Whether a folder, or a preset, is a whole model of one of the families."""
    folder = Path(source).expanduser()
    if not (folder / "config.json").is_file():
        return any(source in family.presets or _qualified(source, family) for family in families)
    config = _config(folder)
    return any(family.recognises(config) for family in families)


def adapter_base(folder: Path) -> str | None:
    """The base that peft's own configuration names."""
    named = read_json_object(folder / ADAPTER).get("base_model_name_or_path")
    return named if isinstance(named, str) and named else None


def find_folder(source: str, families: Sequence[ModelFamily], plugin: str) -> tuple[Path, dict[str, Any]]:
    """A folder of any model, or what is downloaded of its hub id, and its ``config.json``.

    Raises:
        InputError: there is none.
    """
    folder = Path(source).expanduser()
    folder = folder if folder.is_dir() else _download(source, families, plugin, with_weights=True)
    return folder, _config(folder)


def _download(source: str, families: Sequence[ModelFamily], plugin: str, with_weights: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    presets = list(dict.fromkeys(name for family in families for name in family.presets))
    if "/" not in source:
        raise InputError(
            f"no model {source!r}: it is no folder, no preset of plugin {plugin!r} ({', '.join(presets)})"
            f"{closest(source, presets)}, and no hub id (owner/name)"
        )
    try:
        return Path(snapshot_download(source, allow_patterns=_HUB_FILES if with_weights else _SMALL_FILES))
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
