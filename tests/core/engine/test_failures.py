"""Errors that a machine causes, in one line; all others as they are."""

from __future__ import annotations

import errno

import pytest
from safetensors import SafetensorError

from polylens.engine.failures import explained
from polylens.errors import InputError

CAUSES = {
    "worker": (
        RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "),
        r"a data worker ended \(killed by signal: Killed\)",
    ),
    "rank": (RuntimeError("[gloo/transport/tcp/pair.cc:553] Connection closed by peer"), "another rank ended"),
    "disk": (OSError(errno.ENOSPC, "No space left on device"), "the disk is full"),
    "safetensors": (SafetensorError("I/O error: No space left on device (os error 28)"), "the disk is full"),
    "torch": (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 1 vs 2"), "the disk is full"),
}


@pytest.mark.parametrize("case", CAUSES)
def test_what_the_machine_did_is_one_line(case):
    error, message = CAUSES[case]
    with pytest.raises(InputError, match=rf"^{message}.*; start again$"), explained("start again"):
        raise error


@pytest.mark.parametrize("error", [RuntimeError("a defect"), OSError(errno.EACCES, "no"), EOFError(), KeyError("x")])
def test_anything_else_keeps_its_traceback(error):
    with pytest.raises(type(error)) as found, explained("start again"):
        raise error
    assert found.value is error
