"""The tiny VLM and a toy data set, made once."""

from __future__ import annotations

from pathlib import Path

import pytest
from toy import write_toy

from polylens.engine.loading import Checkpoint, load_checkpoint


@pytest.fixture(scope="session")
def tiny() -> Checkpoint:
    """Not to be changed: copy its model, or load another one."""
    return load_checkpoint("minicpmv", "tiny", seed=1)


@pytest.fixture(scope="session")
def toy(tmp_path_factory) -> tuple[Path, Path]:
    """A pairs file and a store of eight pages."""
    return write_toy(tmp_path_factory.mktemp("toy"))
