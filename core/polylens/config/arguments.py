"""Splits a command line into options and their values, and types the values."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser

from polylens.config.vocabulary import Option, type_name
from polylens.errors import InputError

_TRUE = {"true", "yes", "on", "1", "t", "y"}
_FALSE = {"false", "no", "off", "0", "f", "n"}
_OPTION = re.compile(r"--[A-Za-z]")


@dataclass(frozen=True, slots=True)
class Argument:
    """An option of the command line.

    Attributes:
        spelling: as it was written, for messages.
        values: the words that follow it.
        target: the name of the option that it means, where that is not the spelling.
    """

    spelling: str
    values: tuple[str, ...] = ()
    target: str = ""

    @property
    def name(self) -> str:
        """With underscores and without leading dashes."""
        return self.target or self.spelling.lstrip("-").replace("-", "_")

    def to(self, target: str, values: Sequence[str] | None = None) -> Argument:
        """The same under another name, perhaps with other values."""
        return Argument(self.spelling, self.values if values is None else tuple(values), target)


def split(argv: Sequence[str]) -> list[Argument]:
    """Options with the values that follow them; ``--x=y`` and ``--x y`` are the same.

    >>> split(["--bf16", "--train", "a.jsonl", "b.jsonl", "--seed=1"])[1].values
    ('a.jsonl', 'b.jsonl')

    Raises:
        InputError: a value comes before the first option.
    """
    found: list[Argument] = []
    for token in argv:
        if _OPTION.match(token):
            spelling, equals, value = token.partition("=")
            found.append(Argument(spelling, (value,) if equals else ()))
        elif not found:
            raise InputError(f"unexpected argument {token!r}: every value follows an option, such as --model {token}")
        else:
            found[-1] = Argument(found[-1].spelling, (*found[-1].values, token))
    return found


def boolean(text: str) -> bool | None:
    """What a word says, or ``None`` if it is not one for true or false."""
    word = text.strip().lower()
    return True if word in _TRUE else False if word in _FALSE else None


def typed(option: Option, values: Sequence[str], spelling: str) -> Any:
    """The values of one option as its type.

    Raises:
        InputError: there are too many or too few of them, or they are of another type.
    """
    text = _as_text(option, values, spelling)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=option.hint)
    try:
        value = parser.parse_args([f"--value={text}"]).value
    except ArgumentError as error:
        given = " ".join(values)
        raise InputError(f"{spelling} is {given!r}, not {type_name(option.hint)}") from error
    return value


def _as_text(option: Option, values: Sequence[str], spelling: str) -> str:
    """One value, as jsonargparse reads it."""
    if not values and option.is_flag:
        return "true"
    if not values:
        raise InputError(f"{spelling} needs a value: {type_name(option.hint)}")
    if len(values) == 1 and option.is_flag and (truth := boolean(values[0])) is not None:
        return "true" if truth else "false"
    if len(values) == 1 and (option.takes_one or values[0].startswith("[") or values[0] == "null"):
        return values[0]
    if option.takes_several:
        words = [word for value in values for word in value.split(",")] if option.names_parts else list(values)
        return json.dumps(words)
    raise InputError(f"{spelling} takes one value, not {len(values)}: {' '.join(values)}")
