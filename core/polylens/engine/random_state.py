"""Replays dropout: the second forward pass of a micro-batch must draw what the first one drew."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(slots=True)
class RandomState:
    """Generator states of the CPU and of the accelerator that this process uses."""

    cpu: Tensor
    device: Tensor | None

    @classmethod
    def capture(cls, last: RandomState | None = None) -> RandomState:
        """The present state; ``last`` itself if nothing was drawn since, as a state of the CPU takes 5 kB."""
        device = torch.get_device_module().get_rng_state() if torch.accelerator.is_available() else None
        present = cls(torch.get_rng_state(), device)
        return last if last is not None and last.equals(present) else present

    @classmethod
    def branched(cls) -> RandomState:
        """One of its own, which follows from the present one, which moves on."""
        seed = int(torch.randint(torch.iinfo(torch.int64).max, ()))
        present = cls.capture()
        torch.manual_seed(seed)
        own = cls.capture()
        present.restore()
        return own

    def equals(self, other: RandomState) -> bool:
        """Whether both draw the same numbers."""
        same = self.device is None or other.device is None or torch.equal(self.device, other.device)
        return same and torch.equal(self.cpu, other.cpu)

    def restore(self) -> None:
        torch.set_rng_state(self.cpu)
        if self.device is not None:
            torch.get_device_module().set_rng_state(self.device)

    @contextlib.contextmanager
    def replayed(self) -> Iterator[None]:
        """Draw from this state inside the block, and from the present one after it."""
        present = RandomState.capture()
        self.restore()
        try:
            yield
        finally:
            present.restore()
