"""Run files: YAML in, YAML out."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from yaml.constructor import ConstructorError

from polylens.errors import InputError


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with the floats of YAML 1.2: ``2e-5`` is a number, not a string.

    A key that stands in a mapping twice is refused, and so are numbers that would become infinite.
    """

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        written = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        twice = next((key for key in written if written.count(key) > 1), None)
        if twice is not None:
            raise ConstructorError(None, None, f"the key {twice!r} stands in one mapping twice", node.start_mark)
        return super().construct_mapping(node, deep)

    def construct_yaml_float(self, node: Any) -> float:
        value = super().construct_yaml_float(node)
        if math.isinf(value) and "inf" not in node.value.lower():
            raise ConstructorError(None, None, f"{node.value} is too large a number", node.start_mark)
        return value


_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.construct_yaml_float)
_SCALAR_ERRORS = (ValueError, LookupError, AttributeError, TypeError)
"""What PyYAML raises on a scalar that is not of the type its tag names, such as ``!!bool maybe``."""

_MAX_NODES = 100_000
"""Values in a run file, each alias counted as what it stands for."""


class _Dumper(yaml.SafeDumper):
    """The same rules the other way: a string that looks like a number is quoted."""


_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+")
for _side in (_Loader, _Dumper):
    _side.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))


def read_run_file(path: str | Path) -> dict[str, Any]:
    """The mapping that a YAML (or JSON) file holds; an empty file is an empty mapping.

    Raises:
        InputError: the file cannot be read, is not YAML, has a key twice, or is not a mapping.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the run file {str(path)!r}: {error}") from error
    value = read_yaml(text, str(path))
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InputError(f"{path}: a run file is a mapping of options, not {type(value).__name__}")
    return value


def read_yaml(text: str, where: str) -> Any:
    """The value of a YAML text.

    Raises:
        InputError: it is not YAML, has a key twice, or stands for more values than any run has.
    """
    try:
        return _value(text)
    except (yaml.YAMLError, *_SCALAR_ERRORS) as error:
        raise InputError(f"{where}: not YAML: {' '.join(str(error).split())}") from error
    except RecursionError as error:
        raise InputError(f"{where}: it is nested too deep") from error


def _value(text: str) -> Any:
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        if _expanded(node, {}) > _MAX_NODES:
            raise ConstructorError(None, None, f"its aliases stand for more than {_MAX_NODES} values", node.start_mark)
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _expanded(node: Any, known: dict[int, float]) -> float:
    """Values under a node, aliases written out; infinite if it holds itself."""
    if id(node) not in known:
        known[id(node)] = math.inf  # until its own are counted
        parts = node.value if isinstance(node, yaml.CollectionNode) else []
        below = [part for item in parts for part in (item if isinstance(item, tuple) else [item])]
        known[id(node)] = 1 + sum(_expanded(part, known) for part in below)
    return known[id(node)]


def run_file_text(run: Mapping[str, Any]) -> str:
    """A run file that says the same as ``run``."""
    return yaml.dump(dict(run), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with the values of ``over``; mappings merge key by key, anything else is replaced.

    >>> merge({"data": {"train": ["a"]}, "seed": 1}, {"data": {"validation": "b"}})
    {'data': {'train': ['a'], 'validation': 'b'}, 'seed': 1}
    """
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def nested(path: str, value: Any) -> dict[str, Any]:
    """``value`` under a dotted path.

    >>> nested("data.train", ["a"])
    {'data': {'train': ['a']}}
    """
    for key in reversed(path.split(".")):
        value = {key: value}
    return value
