"""What the checks look at: a family of a plugin, loaded, with examples to feed it."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polylens import plugins
from polylens.contracts import Batch, Example, ImageRef, Message, ModelFamily, Record
from polylens.errors import InputError, closest

if TYPE_CHECKING:
    from PIL.Image import Image
    from transformers import PreTrainedModel

    from polylens.engine.loading import Checkpoint

NOISE = 0.02
"""Added to the weights of a preset: a weight that starts at zero would hide mistakes."""

TEXTS = (
    "Where is the serial number of the pump?",
    "压力表在哪里？",
    "Replace the filter every 500 hours.\nSee table 4.",
)


class Subject:
    """A family under test. What costs time is made when a check first asks for it.

    Args:
        plugin: name of an installed plugin.
        family: name of one of its families; by default the first.
        source: model folder to test with; by default the preset ``tiny`` of the family.

    Raises:
        InputError: no such plugin or family.
    """

    def __init__(self, plugin: str, family: str | None = None, source: str | None = None) -> None:
        self.plugin = plugin
        self.hooks: Any = plugins.load(plugin)
        self.families: tuple[ModelFamily, ...] = tuple(self.hooks.families() or ())
        self.family = self._choose(family)
        self.source = source or f"{self.family.name}/tiny"

    def _choose(self, name: str | None) -> ModelFamily:
        names = [family.name for family in self.families]
        if not names:
            raise InputError(f"plugin {self.plugin!r} knows no model family")
        if name is not None and name not in names:
            known = ", ".join(names)
            raise InputError(f"plugin {self.plugin!r} has no family {name!r}{closest(name, names)}; it has: {known}")
        return self.families[names.index(name) if name else 0]

    def of_folder(self, source: str) -> Subject:
        """The same plugin with a model folder, and the family that recognises it."""
        from polylens.engine.sources import find_model

        return Subject(self.plugin, find_model(source, self.families, self.plugin).family.name, source)

    @property
    def is_preset(self) -> bool:
        return self.source == f"{self.family.name}/tiny"

    @cached_property
    def folder(self) -> Path:
        """Where ``config.json`` and the tokenizer lie."""
        return Path(self.family.presets["tiny"]) if self.is_preset else Path(self.source)

    @cached_property
    def config(self) -> dict[str, Any]:
        """Content of ``config.json``."""
        return json.loads((self.folder / "config.json").read_text(encoding="utf-8"))

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """The model in float64 with its tokenizer, slicer and template; no trained weight of a preset is zero."""
        import torch

        from polylens.engine.loading import load_checkpoint

        loaded = load_checkpoint(self.plugin, self.source, dtype="float64")
        if self.is_preset:
            generator = torch.Generator().manual_seed(0)
            with torch.no_grad():
                for weight in (w for w in loaded.model.parameters() if w.requires_grad):
                    weight += NOISE * torch.randn(weight.shape, generator=generator, dtype=weight.dtype)
        loaded.model.eval()
        return loaded

    @property
    def model(self) -> PreTrainedModel:
        return self.checkpoint.model

    @contextlib.contextmanager
    def training(self, exact: bool = True) -> Iterator[PreTrainedModel]:
        """The model in training mode, without gradients from before; which weights are trained is put back after.

        Args:
            exact: let nothing be computed in float32; what runs inside a backward pass is out of its reach.
        """
        import torch

        from polylens.testing.precision import Float64Throughout

        model = self.model
        trained = {name: weight.requires_grad for name, weight in model.named_parameters()}
        model.train().zero_grad(set_to_none=True)
        with torch.random.fork_rng(devices=[]), Float64Throughout() if exact else contextlib.nullcontext():
            torch.manual_seed(0)
            try:
                yield model
            finally:
                model.eval().zero_grad(set_to_none=True)
                for name, weight in model.named_parameters():
                    weight.requires_grad_(trained[name])

    def example(self, *parts: str | Image, id: str = "", rows: Mapping[str, Any] | None = None) -> Example:
        """One user message of texts and pictures, prepared as for training an embedder."""
        from polylens.data.images import ImageOpener

        message = Message("user", tuple(part if isinstance(part, str) else encoded(part) for part in parts))
        preparer = self.checkpoint.preparer(ImageOpener(), style="plain")
        return preparer.example(Record(id, (message,)), rows=dict(rows or {}))

    def examples(self) -> list[Example]:
        """A ragged mix: a picture with text, text alone, two pictures, a tall picture, a longer text."""
        return [
            self.example(picture(90, 60), "\n" + TEXTS[0], id="picture"),
            self.example(TEXTS[1], id="text"),
            self.example(picture(150, 40, seed=1), picture(64, 64, seed=2), "\n", id="pictures"),
            self.example(TEXTS[0], picture(40, 170, seed=3), TEXTS[2], id="tall"),
            self.example(" ".join(TEXTS), id="long text"),
        ]

    def batch(self, examples: list[Example], padding_side: str = "right") -> Batch:
        return self.checkpoint.collator(padding_side)(examples)


def picture(width: int, height: int, seed: int = 0) -> Image:
    """A picture of noise: no two places look the same."""
    import numpy as np
    from PIL import Image

    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def encoded(image: Image) -> ImageRef:
    """The picture as a record carries it."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return ImageRef("bytes", buffer.getvalue())
