"""Run files: YAML in, YAML out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from polylens.errors import InputError


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with the floats of YAML 1.2: ``2e-5`` is a number, not a string."""


class _Dumper(yaml.SafeDumper):
    """The same rules the other way: a string that looks like a number is quoted."""


_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+")
for _side in (_Loader, _Dumper):
    _side.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))


def read_run_file(path: str | Path) -> dict[str, Any]:
    """The mapping that a YAML (or JSON) file holds; an empty file is an empty mapping.

    Raises:
        InputError: the file cannot be read, is not YAML, or is not a mapping.
    """
    try:
        value = yaml.load(Path(path).read_text(encoding="utf-8"), Loader=_Loader)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the run file {str(path)!r}: {error}") from error
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InputError(f"{path}: a run file is a mapping of options, not {type(value).__name__}")
    return value


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
