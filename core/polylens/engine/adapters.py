"""Adapter folders, in every layout that they have had, as one thing: low-rank layers, and weights that replace others.

- polylens: peft's files, and ``beside_adapter.safetensors``, whose weights were trained as they are.
- peft: modules of ``modules_to_save`` lie whole in ``adapter_model.safetensors``.
- older programs: a file of theirs beside the adapter (``ModelFamily.beside_adapter``) holds such modules.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers.core_model_loading import WeightRenaming, apply_renamings

from polylens.contracts import ModelFamily
from polylens.engine.reading import refusing
from polylens.engine.sources import ADAPTER
from polylens.engine.tensor_files import Entry, TensorFile
from polylens.errors import InputError

BESIDE_ADAPTER_FILE = "beside_adapter.safetensors"
"""Weights trained as they are, next to an adapter."""

ADAPTER_FILE = "adapter_model.safetensors"
_FILES = (ADAPTER_FILE, "adapter_model.bin")
PREFIX = "base_model.model."
"""Of the names in peft's files."""

_LOW_RANK = ".lora_"
_UNKNOWN = {
    "layer_replication": "it repeats layers of the base",
    "target_parameters": "it adapts parameters that are no layer",
    "trainable_token_indices": "it trains single tokens",
    "alora_invocation_tokens": "it works from a token on, which no weights can do",
}


@dataclass(frozen=True, slots=True)
class Stored:
    """A weight of an adapter folder: in which file, under which name."""

    file: TensorFile
    key: str

    @property
    def entry(self) -> Entry:
        return self.file.entries[self.key]

    def read(self) -> Tensor:
        return self.file.read(self.key)


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter folder, not yet loaded.

    Attributes:
        config: peft's own; ``modules_to_save`` is empty, so that no module is wrapped.
        base: what the folder says that the adapter was trained over; empty if it does not.
        low_rank: ``<module>.lora_A.weight`` and the like, with names of the model.
        whole: weights that replace those of the base, by their names in the model.
        modules_to_save: names of the modules that it does hold.
    """

    folder: Path
    config: Any
    base: str
    low_rank: dict[str, Stored]
    whole: dict[str, Stored]
    modules_to_save: list[str] = field(default_factory=list)

    def modules(self) -> dict[str, dict[str, Stored]]:
        """The low-rank weights of each adapted module, by what follows its name (``lora_A.weight``)."""
        found: dict[str, dict[str, Stored]] = {}
        for name, stored in self.low_rank.items():
            module, _, rest = name.rpartition(_LOW_RANK)
            found.setdefault(module, {})[_LOW_RANK[1:] + rest] = stored
        return found

    def mismatch(self, what: str) -> InputError:
        """The error of an adapter that does not fit the base that it met."""
        made = f"it was made for {self.base!r}; " if self.base else ""
        return InputError(
            f"{self.folder}: the adapter does not fit its base: {what}; {made}give the right one as --base"
        )


def read_adapter(folder: Path, family: ModelFamily, shapes: Mapping[str, Collection[int]]) -> Adapter:
    """What an adapter folder holds, with the names of the model.

    Args:
        shapes: of the weights of the model, by their names.

    Raises:
        InputError: files are missing, empty or damaged; it is no LoRA adapter; a weight is not in the model, or has
            another shape there.
    """
    config = _config(folder)
    saved, config.modules_to_save = list(config.modules_to_save or []), None
    adapter = Adapter(folder, config, str(config.base_model_name_or_path or ""), {}, {}, modules_to_save=saved)
    renames = _Names(family, shapes)
    _collect(adapter, _peft_file(folder), renames)
    extra = [folder / name for name in (BESIDE_ADAPTER_FILE, *family.beside_adapter) if (folder / name).is_file()]
    for path in extra:
        _collect(adapter, _not_empty(TensorFile(path)), renames)
    _check(adapter, shapes)
    if renames.used:
        config.target_modules = set(adapter.modules())
    return adapter


def saved_modules(model: Any) -> list[str]:
    """What ``modules_to_save`` of the adapter of a model says."""
    return list(model.peft_config["default"].modules_to_save or ())


def names_under(modules: Iterable[str], names: Iterable[str]) -> set[str]:
    """The weights of modules that go by these names, as ``modules_to_save`` means them: the end of a path.

    >>> sorted(names_under(["head", "llm.norm"], ["llm.head.weight", "llm.norm.weight", "llm.ahead.weight"]))
    ['llm.head.weight', 'llm.norm.weight']
    """
    wanted = [f".{module}." for module in modules]
    return {name for name in names if ".lora_" not in name and any(path in f".{name}" for path in wanted)}


def _config(folder: Path) -> Any:
    from peft import LoraConfig, PeftConfig

    with refusing(f"{folder / ADAPTER}: no configuration of an adapter"):
        config = PeftConfig.from_pretrained(str(folder))
    if not isinstance(config, LoraConfig):
        raise InputError(f"{folder / ADAPTER}: an adapter of type {config.peft_type}; LoRA and DoRA can be used")
    for name, reason in _UNKNOWN.items():
        if getattr(config, name, None):
            raise InputError(f"{folder / ADAPTER}: /{name} cannot be used: {reason}")
    return config


def _peft_file(folder: Path) -> TensorFile:
    path = next((folder / name for name in _FILES if (folder / name).is_file()), None)
    if path is None:
        raise InputError(f"{folder}: an adapter without weights: none of {', '.join(_FILES)}")
    return TensorFile(path)


def _not_empty(file: TensorFile) -> TensorFile:
    if not file.entries:
        raise InputError(
            f"{file.path}: it holds no weights, so that modules which were trained beside the adapter are lost. Some "
            "fine-tuning programs write it so at the end of a run: use the last checkpoint folder of that run, whose "
            "file is full; or delete this file to load the adapter alone"
        )
    return file


class _Names:
    """Names of the model for names in files, which older programs took from another layout.

    Attributes:
        used: whether any name was another one.
    """

    def __init__(self, family: ModelFamily, known: Collection[str]) -> None:
        self.renames = [WeightRenaming(*pair) for layout in family.layouts for pair in layout.renames.items()]
        self.known, self.used = known, False
        self.modules = {name.rpartition(".")[0] for name in known}

    def __call__(self, key: str) -> str:
        name = key.removeprefix(PREFIX).replace(".base_layer.", ".")
        if self._is_known(name):
            return name
        renamed = apply_renamings(name, self.renames)
        if renamed != name and self._is_known(renamed):
            self.used = True
            return renamed
        return name

    def _is_known(self, name: str) -> bool:
        module, found, _ = name.rpartition(_LOW_RANK)
        return module in self.modules if found else name in self.known


def _collect(adapter: Adapter, file: TensorFile, names: _Names) -> None:
    """Sort the weights of a file."""
    for key in file.entries:
        name = names(key)
        kind = adapter.low_rank if _LOW_RANK in name else adapter.whole
        kind[name] = Stored(file, key)


def _check(adapter: Adapter, shapes: Mapping[str, Collection[int]]) -> None:
    modules = {name.rpartition(".")[0] for name in shapes}
    unknown = [name for name in adapter.modules() if name not in modules]
    unknown += [name for name in adapter.whole if name not in shapes]
    if unknown:
        raise adapter.mismatch(f"it has weights for {unknown[0]}, which the base does not have")
    for name, stored in adapter.whole.items():
        if stored.entry.shape != tuple(shapes[name]):
            wanted, found = list(shapes[name]), list(stored.entry.shape)
            raise adapter.mismatch(f"{name} is {found} there and {wanted} in the base")
