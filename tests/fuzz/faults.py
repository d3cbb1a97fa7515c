"""Kinds that fail in every way that the fuzzer must see."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Sequence
from pathlib import Path

from fuzz.outcome import require

from polylens.errors import InputError


class Fault:
    """Input 0 is accepted, 1 refused, 2 a traceback, 3 dropped, 4 crashes, 5 hangs, 6 asks for all memory."""

    def __init__(self, base: Path) -> None:
        self.number = -1

    def write(self, rng: random.Random, folder: Path) -> None:
        (folder / "input").write_text("x")
        self.number += 1

    def read(self, folder: Path) -> int:
        if self.number == 1:
            raise InputError("no")
        if self.number == 2:
            raise KeyError("x")
        require(self.number != 3, "a record is gone")
        if self.number == 4:
            os.abort()
        return 2

    def commands(self, folder: Path) -> Sequence[Sequence[str]]:
        return [["--version"]]


class Hang(Fault):
    """Does not come back."""

    def read(self, folder: Path) -> int:
        while True:
            time.process_time()


class Hungry(Fault):
    """Asks for more than there is."""

    def read(self, folder: Path) -> int:
        return len(bytearray(2**44))


class BadCommand(Fault):
    """Is read well, and ends the command line with a traceback."""

    def commands(self, folder: Path) -> Sequence[Sequence[str]]:
        return [["data", "validate", b"not text"]]  # type: ignore[list-item]
