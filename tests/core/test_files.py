from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
import torch
from safetensors.torch import save_file

from polylens.files import replacing, uninterrupted, write_text


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "file.txt"

    def half() -> Iterator[str]:
        yield "half of "
        raise RuntimeError

    write_text(path, ["old"])
    with pytest.raises(RuntimeError):
        write_text(path, half())
    assert path.read_text() == "old"
    assert [found.name for found in path.parent.iterdir()] == ["file.txt"]


def test_what_a_killed_run_left_is_overwritten(tmp_path):
    (tmp_path / "file.txt.tmp").write_text("something longer")
    write_text(tmp_path / "file.txt", ["new"])
    assert (tmp_path / "file.txt").read_text() == "new"


def test_whoever_may_read_a_new_file_may_read_weights_and_vectors(tmp_path):
    (tmp_path / "any").touch()
    with replacing(tmp_path / "some.safetensors") as partial:
        save_file({"x": torch.zeros(2)}, partial)
    assert (tmp_path / "some.safetensors").stat().st_mode == (tmp_path / "any").stat().st_mode


def test_an_interrupt_waits_for_the_end_of_the_block():
    done = []

    def interrupted_half_way():
        with uninterrupted():
            signal.raise_signal(signal.SIGINT)
            done.append("the rest of the block")

    with pytest.raises(KeyboardInterrupt):
        interrupted_half_way()
    assert done
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
