"""Runs commands one after another, prints them, and remembers what is done."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from polylens.retrieval.report import Command


class Steps:
    """Commands whose results are kept in files.

    A command that was done before is left out, as long as neither it, nor a command before it, nor ``inputs`` have
    changed. One that was killed is started again on what it has left, for polylens commands go on where they stopped;
    one that has changed loses its old output first.

    Args:
        folder: holds all outputs, and ``steps.json``.
        inputs: files that the first command reads.
    """

    def __init__(self, folder: Path, inputs: Iterable[Path]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.done: list[Command] = []
        self._notes = folder / "steps.json"
        self._known: dict[str, dict] = json.loads(self._notes.read_text("utf-8")) if self._notes.exists() else {}
        self._key = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(inputs))).hexdigest()

    def polylens(self, *arguments: str | Path, output: Path) -> None:
        """Run ``polylens ARGUMENTS``, which writes ``output``; a failure ends the program with its exit code."""
        words = [str(argument) for argument in arguments]
        line = shlex.join(["polylens", *words])
        self._key = hashlib.sha256(f"{self._key}\n{line}".encode()).hexdigest()
        known = self._known.get(str(output), {})
        print(f"\n$ {line}", flush=True)
        if known.get("key") == self._key and known["seconds"] is not None and output.exists():
            print("  (done before)", flush=True)
        else:
            if known.get("key") != self._key:
                _remove(output)
            self._note(output, None)
            self._note(output, _run([sys.executable, "-m", "polylens", *words]))
        self.done.append(Command(line, self._known[str(output)]["seconds"]))

    def _note(self, output: Path, seconds: float | None) -> None:
        self._known[str(output)] = {"key": self._key, "seconds": seconds}
        partial = self._notes.with_suffix(".tmp")
        partial.write_text(json.dumps(self._known, indent=2), encoding="utf-8")
        os.replace(partial, self._notes)


def _run(command: list[str]) -> float:
    start = time.monotonic()
    code = subprocess.run(command, check=False).returncode
    if code:
        print(f"\nThe command above failed with exit code {code}; the same call goes on from here.", file=sys.stderr)
        raise SystemExit(code)
    return time.monotonic() - start


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
