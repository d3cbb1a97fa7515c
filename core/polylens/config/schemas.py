"""Reads the JSON Schemas, from the installed package or from the checkout, and reports every error of a value."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from polylens.errors import InputError

_PLACES = (
    Path(__file__).parents[1] / "schemas",  # wheel
    Path(__file__).parents[3] / "schemas",  # checkout, editable install
)


@cache
def schema(name: str) -> dict[str, Any]:
    """The schema ``schemas/<name>.schema.json``."""
    for place in _PLACES:
        path = place / f"{name}.schema.json"
        if path.is_file():
            return json.loads(path.read_text(encoding="utf-8"))
    raise FileNotFoundError(f"schema {name!r} is not in this installation of polylens")


@cache
def _validator(name: str) -> Any:
    from jsonschema import Draft202012Validator

    return Draft202012Validator(schema(name))


def errors(name: str, value: Any) -> list[str]:
    """Every way in which ``value`` breaks the schema: ``/json/pointer: what was found and what is allowed``."""
    found = sorted(_validator(name).iter_errors(value), key=lambda error: [str(part) for part in error.absolute_path])
    return [f"/{'/'.join(map(str, error.absolute_path))}: {_short(error.message)}" for error in found]


def check(name: str, value: Any, where: str) -> None:
    """Raise one ``InputError`` that lists all errors of ``value``; ``where`` names the file and line."""
    found = errors(name, value)
    if found:
        raise InputError(f"{where}: " + "; ".join(found))


def _short(message: str, limit: int = 300) -> str:
    return message if len(message) <= limit else message[: limit - 1] + "…"
