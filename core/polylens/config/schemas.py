"""Reads the JSON Schemas, from the installed package or from the checkout, and reports every error of a value."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from polylens.errors import InputError, closest

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


def errors(name: str, value: Any) -> list[str]:
    """Every way in which ``value`` breaks the schema: ``/json/pointer: what was found and what is allowed``."""
    return _describe(_validator(name), value)


def check(name: str, value: Any, where: str) -> None:
    """Raise one ``InputError`` that lists all errors of ``value``; ``where`` names the file and line."""
    _raise(errors(name, value), where)


def check_against(rules: dict[str, Any], value: Any, where: str) -> None:
    """The same with a schema that was made at run time."""
    from jsonschema import Draft202012Validator

    _raise(_describe(Draft202012Validator(rules), value), where)


@cache
def _validator(name: str) -> Any:
    from jsonschema import Draft202012Validator

    return Draft202012Validator(schema(name))


def _describe(validator: Any, value: Any) -> list[str]:
    found = sorted(validator.iter_errors(value), key=lambda error: [str(part) for part in error.absolute_path])
    return [line for error in found for line in _lines(error)]


def _lines(error: Any) -> list[str]:
    """One line an error; a key too many gives one for each such key, with the closest allowed one."""
    pointer = "".join(f"/{part}" for part in error.absolute_path)
    if error.validator == "additionalProperties" and error.validator_value is False:
        allowed = error.schema.get("properties", {})
        extra = [key for key in error.instance if key not in allowed]
        return [f"{pointer}/{key}: unknown key{closest(str(key), allowed)}" for key in extra]
    return [f"{pointer or '/'}: {_short(error.message)}"]


def _raise(found: list[str], where: str) -> None:
    if found:
        raise InputError(f"{where}: " + "; ".join(found))


def _short(message: str, limit: int = 300) -> str:
    return message if len(message) <= limit else message[: limit - 1] + "…"
