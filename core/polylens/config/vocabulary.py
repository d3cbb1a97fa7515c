"""Every option of a run: its path, its type, and the names by which the command line knows it.

The core's options are the leaves of ``RunConfig``. A run adds those of its model family (``options``), of its
objective (``objective.options``) and of ``transformers.TrainingArguments`` (``training``), as these dataclasses are
installed; nothing is listed twice.
"""

from __future__ import annotations

import dataclasses
import enum
import types
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from docstring_parser import parse as parse_docstring

from polylens.config.run import RunConfig
from polylens.errors import InputError, closest

OPEN = ("options", "objective.options", "training")
"""Paths whose keys the core does not know by itself."""

REFUSED_TRAINING = {
    "fsdp": "FSDP is not supported: the gradient cache is exact under DDP and DeepSpeed ZeRO 0 to 3; use --deepspeed",
    "fsdp_config": "FSDP is not supported; use --deepspeed",
    "parallelism_config": "the gradient cache is exact under data parallelism and DeepSpeed ZeRO 0 to 3 only",
}
"""Fields of ``TrainingArguments`` that a run may not set, with the reason."""

_LISTS_OF_NAMES = ("tune", "lora.components", "offload")

_HIDDEN_TRAINING = {"output_dir", "local_rank", *REFUSED_TRAINING}


@dataclass(frozen=True, slots=True)
class Option:
    """One value of a run.

    Attributes:
        path: where it lies in a run file, such as ``data.query_max_length``.
        hint: its type.
        help: one sentence or more.
        default: ``None`` too where there is none.
    """

    path: str
    hint: Any
    help: str = ""
    default: Any = None

    @property
    def name(self) -> str:
        """The short name on the command line, without dashes.

        >>> [Option(path, int).name for path in ("data.train", "lora.r", "lora.enable", "training.seed")]
        ['train', 'lora_r', 'lora', 'seed']
        """
        if self.path in OPEN:
            return self.path
        if self.path == "objective.name":
            return "objective"
        if self.path.startswith("objective.options."):
            return self.path.removeprefix("objective.options.")
        section, _, rest = self.path.partition(".")
        if not rest or rest == "enable":
            return section
        return f"lora_{rest}" if section == "lora" else rest

    @property
    def names(self) -> tuple[str, ...]:
        """Every name on the command line, the short one first."""
        long = self.path.replace("objective.options.", "objective.", 1)
        return tuple(dict.fromkeys((self.name, long, self.path)))

    @property
    def is_flag(self) -> bool:
        return bool in _alternatives(self.hint)

    @property
    def takes_several(self) -> bool:
        return self.hint is Any or any(_origin(kind) in (list, tuple) for kind in _alternatives(self.hint))

    @property
    def names_parts(self) -> bool:
        """Whether it is a list of names, between which commas may stand; a path may have a comma."""
        return self.path in _LISTS_OF_NAMES

    @property
    def takes_one(self) -> bool:
        """Whether a single value may stand for itself, not for a list of one."""
        several = (list, tuple, types.NoneType)
        return any(kind is Any or _origin(kind) not in several for kind in _alternatives(self.hint))

    def coerced(self, value: Any) -> Any:
        """A whole number as the float that the option is; anything else as it is."""
        kinds = _alternatives(self.hint)
        return float(value) if type(value) is int and float in kinds and int not in kinds else value

    @property
    def is_mapping(self) -> bool:
        return any(_origin(kind) is dict for kind in _alternatives(self.hint))


class Vocabulary:
    """The options of one run, by name. Where two have the same short name, the earlier one has it."""

    def __init__(self, options: Sequence[Option]) -> None:
        self.options = list({option.path: option for option in reversed(options)}.values())[::-1]
        self._by_name: dict[str, Option] = {}
        for option in self.options:
            for name in option.names:
                self._by_name.setdefault(name, option)

    def __iter__(self) -> Iterator[Option]:
        return iter(self.options)

    @property
    def names(self) -> list[str]:
        return list(self._by_name)

    def find(self, name: str) -> Option | None:
        """The option of that name, or the key of an option that is a mapping (``--accelerator_config.key``)."""
        if name in self._by_name:
            return self._by_name[name]
        parent, _, key = name.rpartition(".")
        option = self.find("objective.options" if parent == "objective" else parent) if parent else None
        if option is not None and option.is_mapping:
            return Option(f"{option.path}.{key}", Any)
        return None


def core_options() -> list[Option]:
    """The leaves of ``RunConfig``."""
    return list(leaves(RunConfig))


def leaves(kind: type, prefix: str = "") -> Iterator[Option]:
    """The options of a dataclass; nested dataclasses give nested paths."""
    hints = typing.get_type_hints(kind)
    texts = {item.arg_name: item.description for item in parse_docstring(kind.__doc__ or "").params}
    for item in dataclasses.fields(kind):
        path, hint = prefix + item.name, hints[item.name]
        if not item.init:
            continue
        if dataclasses.is_dataclass(hint):
            yield from leaves(typing.cast(type, hint), path + ".")
        else:
            text = texts.get(item.name) or item.metadata.get("help") or ""
            yield Option(path, narrow(hint), " ".join(str(text).split()), _default(item))


@cache
def training_options() -> list[Option]:
    """The fields of ``transformers.TrainingArguments`` that a run may set."""
    from transformers.training_args import TrainingArguments

    found = (_retyped(option) for option in leaves(TrainingArguments, "training."))
    return [option for option in found if option.path.split(".")[1] not in _HIDDEN_TRAINING]


def _retyped(option: Option) -> Option:
    """``true``, the last checkpoint, beside a path: transformers leaves that to each program."""
    resume = option.path == "training.resume_from_checkpoint"
    return dataclasses.replace(option, hint=bool | str | None) if resume else option


def family_options(plugin: str) -> list[Option]:
    """The options of a plugin's model families; which family a checkpoint is of turns out when it is read.

    Raises:
        InputError: there is no such plugin, or it does not load.
    """
    from polylens import plugins

    families = plugins.load(plugin).families()
    return [option for family in families for option in leaves(family.options, "options.")]


def objective_options(name: str) -> list[Option] | None:
    """The options of an objective, if its attribute ``options`` is a dataclass; else ``None``: any name goes.

    Raises:
        InputError: no installed plugin has such an objective.
    """
    from polylens import plugins

    hooks, broken = plugins.load_all()
    try:
        objective = hooks.objective(name=name, options={})
    except InputError:  # it cannot do without options; which ones, it says when it is built with those of the run
        return None
    if objective is None:
        failed = f"; these plugins do not load: {', '.join(broken)}" if broken else ""
        raise InputError(f"no installed plugin has an objective {name!r}{closest(name, ['contrastive'])}{failed}")
    kind = type(getattr(objective, "options", None))
    return list(leaves(kind, "objective.options.")) if dataclasses.is_dataclass(kind) else None


def full_vocabulary(plugin: str, objective: str) -> Vocabulary:
    """The options of a run with this plugin and this objective."""
    parts = {"options": family_options(plugin), "objective.options": objective_options(objective)}
    parts["training"] = training_options()
    known = [path for path, options in parts.items() if options is not None]
    core = [option for option in core_options() if option.path not in known]
    order = ("objective.options", "options", "training")
    return Vocabulary(core + [option for path in order for option in parts[path] or []])


def narrow(hint: Any) -> Any:
    """``hint`` with the values of an enumeration in place of ``Enum | str``: any other string fails later anyway."""
    kinds = _alternatives(hint)
    enums = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, enum.Enum)]
    if not enums or str not in kinds:
        return hint
    values = Literal[tuple(member.value for kind in enums for member in kind)]  # type: ignore[valid-type]
    rest = [kind for kind in kinds if kind is not str and kind not in enums]
    return typing.Union[(values, *rest)]


def type_name(hint: Any) -> str:
    """A type as a user reads it.

    >>> type_name(int | None), type_name(list[str]), type_name(Literal["mask", "keep"])
    ('int or null', 'list of str', 'mask or keep')
    """
    kinds = _alternatives(hint)
    if len(kinds) > 1:
        return " or ".join(type_name(kind) for kind in kinds)
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return " or ".join(map(str, args))
    if origin in (list, tuple):
        return f"list of {type_name(args[0])}" if args else "list"
    if _origin(hint) is dict:
        return "mapping"
    return "null" if hint is types.NoneType else "any value" if hint is Any else str(getattr(hint, "__name__", hint))


def _alternatives(hint: Any) -> tuple[Any, ...]:
    is_union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return typing.get_args(hint) if is_union else (hint,)


def _origin(hint: Any) -> Any:
    return typing.get_origin(hint) or hint


def _default(item: dataclasses.Field[Any]) -> Any:
    if item.default_factory is not dataclasses.MISSING:
        return item.default_factory()
    return None if item.default is dataclasses.MISSING else item.default
