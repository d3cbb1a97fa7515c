"""Which model answers, and where it runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from polylens.engine import distributed
from polylens.engine.devices import own_device
from polylens.engine.loading import Checkpoint, load_checkpoint
from polylens.engine.placement import Placement, place
from polylens.errors import InputError


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """Which model answers, and where it runs.

    Attributes:
        model: folder, adapter folder, hub id or preset.
        plugin: that knows it; by default the one that ``polylens.json`` names.
        base: model under the adapter that ``model`` is, instead of the one that it names.
        options: of the model family.
        dtype: of the weights.
        device: ``cpu``, ``cuda``, ``cuda:1`` or ``auto``; by default the accelerator if there is one.
        placement: spreads the model over several devices instead.
        attn_implementation: ``sdpa``, ``eager`` or ``flash_attention_2``.
        seed: of the random weights of a preset.
    """

    model: str
    plugin: str | None = None
    base: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    dtype: str = "auto"
    device: str | None = None
    placement: Placement | None = None
    attn_implementation: str = "sdpa"
    seed: int = 0

    def load(self) -> tuple[Checkpoint, torch.device]:
        """The model, ready to answer, and the device that batches go to.

        Raises:
            InputError: it cannot be loaded, or not there.
        """
        if self.placement is not None and self.device is not None:
            raise InputError("a device map says where the model goes: leave the device out")
        if self.placement is not None and distributed.world_size() > 1:
            raise InputError("a device map spreads one model: start one process, without a launcher")
        device = torch.device("cpu") if self.placement else own_device(self.device)
        checkpoint = load_checkpoint(
            self.plugin,
            self.model,
            base=self.base,
            options=self.options,
            dtype=self.dtype,
            device=device,
            attn_implementation=self.attn_implementation,
            seed=self.seed,
        )
        checkpoint.model.eval()
        return checkpoint, place(checkpoint.model, self.placement) if self.placement else device
