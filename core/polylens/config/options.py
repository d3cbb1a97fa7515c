"""Options of plugins and objectives: a mapping that the user wrote, checked against a dataclass."""

from __future__ import annotations

import dataclasses
import sys
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar

from polylens.errors import InputError, closest

T = TypeVar("T")


def build_options(kind: type[T], given: Mapping[str, Any], where: str) -> T:
    """An instance of the dataclass ``kind``; nested dataclasses take nested mappings.

    Args:
        where: what the options belong to, for messages: ``"objective 'contrastive'"``.

    Raises:
        InputError: a name that the dataclass does not have, or a value of another type.

    >>> @dataclasses.dataclass
    ... class Options:
    ...     temperature: float = 0.02
    >>> build_options(Options, {"temperature": 1}, "objective")
    Options(temperature=1.0)
    >>> build_options(Options, {"temprature": 1}, "objective")
    Traceback (most recent call last):
    polylens.errors.InputError: objective has no option 'temprature' (did you mean 'temperature'?); it has: temperature
    """
    hints = typing.get_type_hints(kind)
    names = [f.name for f in dataclasses.fields(kind) if f.init]  # type: ignore[arg-type]
    values = {}
    for name, value in given.items():
        if name not in names:
            allowed = ", ".join(names) or "no options"
            raise InputError(f"{where} has no option {name!r}{closest(name, names)}; it has: {allowed}")
        values[name] = _convert(hints[name], value, f"{where}: option {name!r}")
    try:
        return kind(**values)
    except ValueError as error:
        raise InputError(f"{where}: {error}") from error


def _convert(kind: Any, value: Any, where: str) -> Any:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind) and isinstance(value, Mapping):
        return build_options(typing.cast(type, kind), value, where)
    if origin in (types.UnionType, typing.Union):
        for option in args:
            try:
                return _convert(option, value, where)
            except InputError:
                continue
    elif origin is Literal:
        if value in args:
            return value
    elif origin in (list, tuple) and isinstance(value, list | tuple):
        inner = args[0] if args else Any
        return origin(_convert(inner, item, where) for item in value)
    elif (origin or kind) is dict and isinstance(value, Mapping):
        return dict(value)
    elif kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        if isinstance(value, float) or abs(value) <= sys.float_info.max:
            return float(value)
    elif kind is Any or (isinstance(kind, type) and type(value) is kind):
        return value
    allowed = " | ".join(map(str, args)) if origin is Literal else str(getattr(kind, "__name__", kind))
    raise InputError(f"{where} is {value!r}, not {allowed}")


def assignments(given: Sequence[str]) -> dict[str, Any]:
    """``NAME=VALUE`` arguments as a mapping; values are read as YAML, and dots nest.

    >>> assignments(["max_slice_nums=4", "compat.original_targets=true"])
    {'max_slice_nums': 4, 'compat': {'original_targets': True}}
    """
    from polylens.config.files import merge, nested, read_yaml

    found: dict[str, Any] = {}
    for item in given:
        name, equals, value = item.partition("=")
        if not name or not equals:
            raise InputError(f"{item!r} is not NAME=VALUE, such as max_slice_nums=4")
        found = merge(found, nested(name, read_yaml(value, name)))
    return found
