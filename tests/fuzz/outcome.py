"""What became of one input, and what a kind of input must be able to do."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


class Dropped(AssertionError):
    """A record was neither delivered as it stands in the file nor reported."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an input.

    Attributes:
        status: ``accepted``, ``refused`` (an ``InputError``), ``traceback``, ``dropped``, ``crash`` or ``hang``.
        quarantined: records that were set aside with a reason.
        detail: of what must not happen.
    """

    status: str
    quarantined: int = 0
    detail: str = ""

    @property
    def failed(self) -> bool:
        return self.status not in ("accepted", "refused")


class Kind(Protocol):
    """Writes mutated inputs, reads them the way the commands do, and checks what comes out.

    Args:
        base: an empty folder for what the inputs refer to.
    """

    def __init__(self, base: Path) -> None: ...

    def write(self, rng: random.Random, folder: Path) -> None:
        """Lay a mutated input into an empty folder."""
        ...

    def read(self, folder: Path) -> int:
        """Read it, and return how many records were set aside.

        Raises:
            InputError: it was refused.
            Dropped: something was lost or altered without a word.
        """
        ...

    def commands(self, folder: Path) -> Sequence[Sequence[str]]:
        """Command lines that read the input."""
        ...


def require(condition: object, message: str) -> None:
    """Raise ``Dropped`` unless the condition holds."""
    if not condition:
        raise Dropped(message)
