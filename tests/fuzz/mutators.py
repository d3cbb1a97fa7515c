"""Makes bad input out of good: in bytes, in lines, and in JSON values.

Everything draws from one ``random.Random``, so an input is known by its kind, its seed and its number.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


class Raw(str):
    """JSON text that stands in the file as it is, valid or not."""


@dataclass(frozen=True)
class Members:
    """A JSON object as its members, of which several may have the same key."""

    items: tuple[tuple[str, Any], ...]


def _nested(depth: int, bracket: str = "[]") -> Raw:
    return Raw(bracket[0] * depth + "0" + bracket[1] * depth)


HOSTILE: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 7, 1.5, 2**31, 2**63, 10**30, 1e308, -1e308),
    *(Raw("1e999"), Raw("-1e999"), Raw("NaN"), Raw("-Infinity"), Raw("9" * 5000), Raw("-0"), Raw("3.0"), Raw("01")),
    *("", " ", "\t", "\0", "a\0b", "a\tb", "a\nb", "a\rb", "\u2028", "\x85", "\ufeff", "\U0001f600", "é", "true"),
    *(Raw('"\\ud800"'), Raw('"\\udc00x"'), Raw('"\\ud83d\\ude00"'), Raw('"\\x41"'), Raw("'a'"), Raw("tRUE"), Raw("")),
    *(
        "x" * 70_000,
        "../../etc/passwd",
        "/etc/passwd",
        "file:///etc/passwd",
        "https://example.org/a.png",
        "~/a",
        "a/..",
    ),
    *([], {}, [[]], [None], {"": None}, ["a", "a"], {"text": "x"}, {"image": "QUJD"}, {"text": 1}),
    *(_nested(60), _nested(200), _nested(900), _nested(990), _nested(100_000), Raw('{"a":' * 950 + "0" + "}" * 950)),
    *("data:image/png;base64,QUJD", "QUJ", "QUJD\n", "!!!!", "=" * 8),
)
"""Values that readers trip over."""


def dump(value: Any) -> str:
    """JSON text, with ``Raw`` and ``Members`` as they say."""
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, Members):
        return "{" + ", ".join(f"{json.dumps(key)}: {dump(item)}" for key, item in value.items) + "}"
    if isinstance(value, dict):
        return dump(Members(tuple(value.items())))
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(dump, value)) + "]"
    return json.dumps(value, ensure_ascii=isinstance(value, str) and len(value) % 2 == 0)


def mutate_value(rng: random.Random, value: Any) -> Any:
    """A JSON value with one thing changed at a random place."""
    if isinstance(value, dict) and value and rng.random() < 0.75:
        return _mutate_object(rng, value)
    if isinstance(value, list) and value and rng.random() < 0.75:
        place = rng.randrange(len(value))
        return rng.choice(
            [
                lambda: [*value[:place], mutate_value(rng, value[place]), *value[place + 1 :]],
                lambda: [*value[:place], *value[place + 1 :]],
                lambda: [*value, value[place]],
            ]
        )()
    if isinstance(value, str) and rng.random() < 0.5:
        return mutate_text(rng, value)
    return rng.choice([rng.choice(HOSTILE), [value], {"text": value}, str(value)])


def _mutate_object(rng: random.Random, value: dict[str, Any]) -> Any:
    key = rng.choice(list(value))
    rest = {name: item for name, item in value.items() if name != key}
    other = rng.choice(
        [*value, "id", "_id", "text", "image", "pos", "neg", "batch", "metadata", key.upper(), key + " "]
    )
    return rng.choice(
        [
            lambda: {**value, key: mutate_value(rng, value[key])},
            lambda: {**value, key: mutate_value(rng, value[key])},
            lambda: {**value, key: rng.choice(HOSTILE)},
            lambda: rest,
            lambda: {**rest, other: value[key]},
            lambda: {**value, other: rng.choice(HOSTILE)},
            lambda: Members((*value.items(), (key, rng.choice(HOSTILE)))),
            lambda: Members(((key, "first"), *value.items())),
        ]
    )()


def mutate_text(rng: random.Random, text: str) -> str:
    """A string with something put in, taken out, or in another case."""
    place = rng.randrange(len(text) + 1)
    odd = rng.choice(
        ["\0", "\t", "\n", "\r", " ", "\ufeff", "\u2028", "\x0b", "é", "\U0001f600", "..", "/", "#", "%00"]
    )
    return rng.choice([text[:place] + odd + text[place:], text[:place] + text[place + 1 :], text.upper(), text * 2])


def mutate_bytes(rng: random.Random, data: bytes) -> bytes:
    """Flips, cuts, inserts, doubles, zeroes or overwrites a part."""
    place, size = rng.randrange(len(data) + 1), rng.choice([1, 2, 4, 8, 64, 1024])
    head, part, tail = data[:place], data[place : place + size], data[place + size :]
    flipped = bytes(byte ^ (1 << rng.randrange(8)) for byte in part)
    edge = rng.choice([b"\xff\xff\xff\xff", b"\x00\x00\x00\x00", b"\x7f\xff\xff\xff", b"\xff", b"\x80\x00"])
    return rng.choice(
        [
            lambda: head + flipped + tail,
            lambda: head + flipped[:1] + part[1:] + tail,
            lambda: head + edge[: len(part)] + part[len(edge) :] + tail,
            lambda: head,
            lambda: head + tail,
            lambda: head + part + part + tail,
            lambda: head + bytes(len(part)) + tail,
            lambda: head + rng.randbytes(size) + part + tail,
        ]
    )()


def several(rng: random.Random, change: Callable[[random.Random, Any], Any], value: Any, most: int = 3) -> Any:
    """The result of one change or a few."""
    for _ in range(rng.choice([1, 1, *range(1, most + 1)])):
        value = change(rng, value)
    return value


def mutate_lines(rng: random.Random, data: bytes) -> bytes:
    """Text of several lines with one thing changed: line ends, order, encoding, bytes."""
    return rng.choice(_LINE_CHANGES)(rng, data)


def _reordered(rng: random.Random, data: bytes) -> bytes:
    lines = data.splitlines(keepends=True) or [b"\n"]
    one = rng.choice(lines)
    place = rng.randrange(len(lines) + 1)
    return b"".join(rng.choice([[*lines[:place], one, *lines[place:]], lines[::-1], [*lines, *lines], lines[:place]]))


def _inserted(rng: random.Random, data: bytes) -> bytes:
    odd = rng.choice(
        [b"\n", b"\n\n", b" \n", b"\r\n", b"\r", b"\0", b"\xef\xbb\xbf", b"\xff", b"\xed\xa0\x80", b"\x0c\n"]
    )
    places = [0, len(data), rng.randrange(len(data) + 1), data.find(b"\n") + 1]
    place = rng.choice(places)
    return data[:place] + odd + data[place:]


def _replaced(rng: random.Random, data: bytes) -> bytes:
    old, new = rng.choice(
        [(b"\n", b"\r\n"), (b"\n", b"\r"), (b"\n", b"\n\n"), (b"\n", b" "), (b"\t", b" "), (b" ", b"\t"), (b" ", b"")]
    )
    count = rng.choice([1, -1])
    return data.replace(old, new, count)


def _encoded(rng: random.Random, data: bytes) -> bytes:
    text = data.decode("utf-8", errors="replace")
    name = rng.choice(["utf-16", "utf-16-le", "utf-32", "latin-1", "utf-8-sig", "cp1252", "utf-7"])
    return text.encode(name, errors="replace")


def _of_bytes(rng: random.Random, data: bytes) -> bytes:
    return mutate_bytes(rng, data)


_LINE_CHANGES: Sequence[Callable[[random.Random, bytes], bytes]] = (
    _reordered,
    _inserted,
    _inserted,
    _replaced,
    _encoded,
    _of_bytes,
    _of_bytes,
)
