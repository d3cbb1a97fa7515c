"""The environment of all tests: nothing is downloaded, two cores are enough, DeepSpeed runs on the CPU."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# A job in the background of a script starts with Ctrl-C switched off, and hands that on to all that it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Before any test module imports torch or transformers; child processes inherit it.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["DS_ACCELERATOR"] = "cpu"
os.environ.setdefault("OMP_NUM_THREADS", "1")
# DeepSpeed compiles its communication operator once; the virtual environment keeps it from run to run. Its compiler
# driver calls ninja by name, which is not on PATH when pytest is called by path.
os.environ.setdefault("TORCH_EXTENSIONS_DIR", str(Path(sys.prefix) / "torch_extensions"))
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])

STALE = 15 * 60
"""Seconds after which a lock on a compiled operator belongs to a build that was killed; torch would wait for ever."""


def pytest_configure(config: pytest.Config) -> None:
    if "PYTEST_XDIST_WORKER" in os.environ:
        return
    for lock in Path(os.environ["TORCH_EXTENSIONS_DIR"]).glob("**/lock"):
        if time.time() - lock.stat().st_mtime > STALE:
            lock.unlink(missing_ok=True)


@pytest.fixture(scope="session")
def golden() -> Path:
    """Outputs of the original programs, which lie beside the checkout on some machines only."""
    folder = ROOT.parent / "shared" / "golden"
    if not folder.is_dir():
        pytest.skip("the outputs of the original programs are not on this machine")
    return folder
