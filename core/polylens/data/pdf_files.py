"""Finds PDF files, and gives each a name that is unique in a store and stays the same from run to run."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from polylens.errors import InputError

__all__ = ["PdfFile", "RenderedFile", "assign_names", "find_pdfs", "fingerprint", "page_id", "path_text", "safe_name"]

_FINGERPRINT_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class PdfFile:
    """A file to render.

    Attributes:
        path: absolute.
        parts: of its path below the folder that was given, or its file name alone.
    """

    path: Path
    parts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RenderedFile:
    """What a store remembers of a file: a line of ``files.jsonl``; see ``schemas/rendered_file.schema.json``."""

    name: str
    path: str
    fingerprint: str


def find_pdfs(inputs: Sequence[str | Path]) -> list[PdfFile]:
    """The PDF files that are given, and all ``*.pdf`` below the given folders, in order of name; each once.

    Raises:
        InputError: an input does not exist, or there is no PDF.
    """
    found: dict[Path, PdfFile] = {}
    for given in map(Path, inputs):
        if not given.exists():
            raise InputError(f"there is no file or folder {str(given)!r}")
        root = Path(os.path.abspath(given))
        for path in _below(root) if root.is_dir() else [root]:
            parts = path.relative_to(root).parts if root.is_dir() else (path.name,)
            found.setdefault(path, PdfFile(path, parts))
    if not found:
        raise InputError(f"there is no *.pdf file in {', '.join(map(str, inputs))}")
    return list(found.values())


def _below(folder: Path) -> list[Path]:
    files = (Path(root, name) for root, _, names in os.walk(folder) for name in names)
    return sorted(path for path in files if path.suffix.lower() == ".pdf" and path.is_file())


def safe_name(parts: Iterable[str]) -> str:
    """A path that every file format can hold as part of an id.

    Blanks, control characters, ``#``, ``%`` and bytes that are not UTF-8 are percent-encoded; letters of any script
    stay. Different paths have different names.

    >>> safe_name(["Pump #3", "Anleitung für 泵.pdf"])
    'Pump%20%233/Anleitung%20für%20泵.pdf'
    """
    return "/".join("".join(map(_safe, part)) for part in parts)


def _safe(character: str) -> str:
    if character.isprintable() and not character.isspace() and character not in "#%":
        return character
    return "".join(f"%{byte:02X}" for byte in os.fsencode(character))


def page_id(name: str, page: int) -> str:
    """The id of a page; ``page`` counts from 0, the id from 1.

    >>> page_id("pump.pdf", 0)
    'pump.pdf#1'
    """
    return f"{name}#{page + 1}"


def fingerprint(path: Path) -> str:
    """Tells files apart by their size and their first and last 64 KiB, without reading all of a large one.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        digest = hashlib.sha256(file.read(_FINGERPRINT_BYTES))
        file.seek(max(0, size - _FINGERPRINT_BYTES))
        digest.update(file.read(_FINGERPRINT_BYTES))
    return f"{size}-{digest.hexdigest()[:32]}"


def assign_names(
    files: Sequence[PdfFile], fingerprints: Mapping[Path, str], known: Iterable[RenderedFile]
) -> dict[Path, str]:
    """A name for every file, different from all others.

    A file that is known keeps its name, also after its folder has moved. Otherwise the name is the path below the
    given folder; files for which that is the same, or is taken, get as many of the folders above as tell them apart.

    Returns:
        Names by path, without the files whose content has changed since they got their name.
    """
    by_path = {entry.path: entry for entry in known}
    by_name = {entry.name: entry for entry in by_path.values()}
    given = {path_text(file.path) for file in files}
    names: dict[Path, str] = {}
    fresh: list[PdfFile] = []
    for file in files:
        entry, moved = by_path.get(path_text(file.path)), by_name.get(safe_name(file.parts))
        if entry is not None:
            if entry.fingerprint == fingerprints[file.path]:
                names[file.path] = entry.name
        elif moved is not None and moved.path not in given and moved.fingerprint == fingerprints[file.path]:
            names[file.path] = moved.name
            given.add(moved.path)
        else:
            fresh.append(file)
    taken = set(by_name) | set(names.values())
    return names | _distinct_names(fresh, taken)


def _distinct_names(files: Sequence[PdfFile], taken: set[str]) -> dict[Path, str]:
    lengths = {file.path: len(file.parts) for file in files}

    def name(file: PdfFile) -> str:
        return safe_name(_tail(file, lengths[file.path]))

    while True:
        counts = Counter(map(name, files))
        clashing = [file for file in files if counts[name(file)] > 1 or name(file) in taken]
        growing = [file for file in clashing if lengths[file.path] < len(PurePath(file.path).parts) - 1]
        if not growing:
            break
        for file in growing:
            lengths[file.path] += 1
    return {file.path: _numbered(name(file), taken) for file in files}


def _tail(file: PdfFile, length: int) -> tuple[str, ...]:
    parts = file.path.parts[1:]
    return parts[-length:]


def _numbered(name: str, taken: set[str]) -> str:
    """The name, or the name with the first free number, where even the whole path is taken by another file."""
    free, number = name, 1
    while free in taken:
        number += 1
        free = f"{name}~{number}"
    taken.add(free)
    return free


def path_text(path: Path) -> str:
    """An absolute path as JSON can hold it."""
    return "/" + safe_name(path.parts[1:])
