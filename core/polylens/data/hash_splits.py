"""Divides records by hashes, so that neither the order of files nor other records decide where one goes."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass

from polylens.errors import InputError

__all__ = ["HashSplits"]


@dataclass(frozen=True, slots=True)
class HashSplits:
    """Splits by name with their parts of the records, which sum to 1.

    A record stays in its split when others come or go, on every machine. What has the same key shares a split.

    >>> HashSplits({"train": 0.8, "test": 0.2}).split("0001.jpg")
    'train'
    """

    parts: Mapping[str, float]
    seed: int = 42

    def __post_init__(self) -> None:
        """Raises ``InputError`` if the parts are no parts of one whole."""
        for name, part in self.parts.items():
            if not name.isidentifier():
                raise InputError(f"{name!r} cannot be the name of a split, which is that of a file; write train, say")
            if not 0 < part <= 1:
                raise InputError(f"split {name}: its part is {part:g}; it must be above 0 and at most 1")
        if not math.isclose(sum(self.parts.values()), 1, abs_tol=1e-9):
            raise InputError(f"the parts of the splits sum to {sum(self.parts.values()):g}; they must sum to 1")

    def split(self, key: str) -> str:
        """The split of a key."""
        digest = hashlib.blake2b(f"{self.seed}\0{key}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
        place = int.from_bytes(digest) / 2**64
        for name, part in self.parts.items():
            place -= part
            if place < 0:
                return name
        return list(self.parts)[-1]
