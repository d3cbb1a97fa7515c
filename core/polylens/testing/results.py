"""What a check says, and how checks are run."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from polylens.testing.subject import Subject

Check = Callable[[Subject], str | None]
"""A function that raises ``Failure`` if the subject breaks the contract; it may return a figure to show."""


@dataclass(frozen=True, slots=True)
class Result:
    """The outcome of one check.

    Attributes:
        name: of the check; ``family/check`` if the plugin has several families.
        ok: whether the contract holds.
        detail: what differs and by how much; for a check that passed, the figure that it measured.
    """

    name: str
    ok: bool
    detail: str = ""


class Failure(AssertionError):
    """The contract does not hold; the message says what differs and by how much."""


def require(holds: Any, message: str) -> None:
    """Raise ``Failure`` with the message unless ``holds``."""
    if not holds:
        raise Failure(message)


def run(check: Check, subject: Subject, prefix: str = "") -> Result:
    """Run one check. Whatever a plugin raises is the result of the check, never the end of the run."""
    name = prefix + check.__name__
    try:
        return Result(name, True, check(subject) or "")
    except Failure as failure:
        return Result(name, False, str(failure))
    except Exception as error:  # noqa: BLE001  a plugin may raise anything
        return Result(name, False, f"raised {type(error).__name__}: {error}")


def run_all(checks: Iterable[Check], subject: Subject, prefix: str = "") -> list[Result]:
    return [run(check, subject, prefix) for check in checks]
