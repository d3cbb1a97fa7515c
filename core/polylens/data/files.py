"""Writes files so that they are either whole or not there."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

__all__ = ["write_text"]


def write_text(path: Path, parts: Iterable[str]) -> None:
    """Write UTF-8 text beside its place, make it last through a power cut, and rename it into place."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(parts)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
