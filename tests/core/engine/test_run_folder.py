"""One run at a time in a folder."""

from __future__ import annotations

import pytest
from support import lock_held

from polylens.engine import locks
from polylens.engine.run_folder import exclusive
from polylens.errors import InputError


def test_two_runs_in_one_folder_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "_PATIENCE", 0.1)
    (tmp_path / ".checkpoint-2.tmp").mkdir()
    with lock_held(tmp_path / ".lock") as other:
        with pytest.raises(InputError, match="another run is writing into it"), exclusive(tmp_path):
            pass
        assert (tmp_path / ".checkpoint-2.tmp").exists(), "the other run is at work on it"
        other.kill()
    with exclusive(tmp_path):
        assert not (tmp_path / ".checkpoint-2.tmp").exists()
        (tmp_path / "model").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_folder_in_which_nothing_was_written_is_not_left(tmp_path):
    with pytest.raises(InputError, match="no such option"), exclusive(tmp_path / "run"):
        raise InputError("no such option")
    assert not (tmp_path / "run").exists()


def test_only_rank_0_holds_it(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    with lock_held(tmp_path / ".lock") as other, exclusive(tmp_path):
        assert other.poll() is None
        other.kill()
