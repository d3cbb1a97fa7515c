"""Memory that is free goes back to the system while weights pass through."""

from __future__ import annotations

import ctypes

_EVERY = 112 * 2**20
"""Bytes of weights. Temporaries of many sizes leave holes in the heap, which would otherwise add up to several times
what is in use; giving them back after every weight would cost as much time as merging."""


class Heap:
    """The heap of glibc; where the C library is another, nothing is done."""

    def __init__(self) -> None:
        self._trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        self._passed = 0

    def passed(self, size: int) -> None:
        """To be told of every weight that was let go of, in bytes."""
        self._passed += size
        if self._passed >= _EVERY and self._trim is not None:
            self._trim(0)
            self._passed = 0
