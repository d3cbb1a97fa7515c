"""Loads a model with everything around it: tokenizer, slicer, preprocessor, template."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar

from polylens import plugins
from polylens.config.card import ModelCard
from polylens.config.run import LoraSettings
from polylens.contracts import ChatTemplate, Collator, ImagePreprocessor, ImageSlicer, ModelFamily, Objective
from polylens.data.images import ImageOpener
from polylens.data.ocr.lines import OcrLines
from polylens.data.prepare import Preparer
from polylens.data.regions import PlainTokens, RegionFinder
from polylens.engine.frontend import load_frontend
from polylens.engine.sources import ModelSource, find_model
from polylens.engine.weights import is_placed, load_model, put_adapter
from polylens.errors import InputError


@dataclass(slots=True)
class Checkpoint:
    """A model and what belongs to it, ready for use.

    Attributes:
        plugin, family: who knows it.
        source: where it was found.
        options: of the family, as an instance of ``family.options``.
        card: from its ``polylens.json``, or a new one.
        seed: of the random weights of a preset; ``None`` if the weights come from a folder.
        beside: weights that its adapter replaced, which belong to it when it is saved again.
    """

    plugin: str
    family: ModelFamily
    source: ModelSource
    hooks: Any
    options: Any
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    slicer: ImageSlicer
    preprocessor: ImagePreprocessor
    template: ChatTemplate
    card: ModelCard
    seed: int | None = None
    beside: frozenset[str] = frozenset()

    def preparer(self, images: ImageOpener, style: Literal["chat", "plain"] = "chat") -> Preparer:
        return Preparer(self.slicer, self.preprocessor, self.template, images, style)

    def finder(self, objective: Objective, lines: OcrLines | None) -> RegionFinder | None:
        """Of the regions of pictures, for an objective that reads them."""
        if objective.cover is None:
            return None
        tokenizer: Any = self.tokenizer
        return RegionFinder(objective.cover, PlainTokens(tokenizer), lines if objective.reads_lines else None)

    @property
    def parts(self) -> tuple[object, ...]:
        """What prepares records, in data workers too."""
        return self.tokenizer, self.slicer, self.preprocessor, self.template, self.collator()

    def collator(self, padding_side: str = "right") -> Collator:
        return self.hooks.collator(family=self.family, tokenizer=self.tokenizer, padding_side=padding_side)


def load_checkpoint(
    plugin: str | None,
    source: str,
    *,
    base: str | None = None,
    options: Mapping[str, Any] | None = None,
    dtype: str = "auto",
    device: str | torch.device = "cpu",
    attn_implementation: str = "sdpa",
    seed: int = 0,
    vision_chunk_size: int | None = None,
    lora: LoraSettings | None = None,
) -> Checkpoint:
    """Load a model through its plugin.

    Args:
        plugin: name of an installed plugin; may be ``None`` if the folder has a ``polylens.json`` that names it.
        source: model folder, adapter folder, preset or hub id.
        base: model under an adapter, where the adapter does not name it, or it lies elsewhere by now.
        options: of the family, over those that ``polylens.json`` names.
        dtype: ``auto`` takes the one that ``config.json`` names, float32 if none.
        seed: of the random weights of a preset. An adapter over a preset knows the one that it was trained over.
        vision_chunk_size: crops of one call of the vision tower; all of a batch by default.
        lora: adapters that it is to get: they may want their base quantised.

    Raises:
        InputError: an unknown plugin, model or option, a checkpoint of another family, missing weights, a tokenizer
            without the image tokens, a chunk size for a model that makes no chunks.
    """
    if not sys.stderr.isatty():
        disable_progress_bar()  # of transformers, which draws one into log files too
    plugin = plugin or plugin_of(source)
    hooks = plugins.load(plugin)
    families = hooks.families()
    if not families:
        raise InputError(f"plugin {plugin!r} knows no model family")
    found = find_model(source, families, plugin, base, options=options)
    if found.adapter is not None and found.card is not None and found.card.base_seed is not None:
        seed = found.card.base_seed
    front = load_frontend(hooks, found, options)
    model: Any = load_model(hooks, found, dtype, attn_implementation, seed, lora)
    beside = put_adapter(model, found.family, found.adapter) if found.adapter is not None else frozenset()
    if vision_chunk_size is not None:
        _set_vision_chunk_size(model, vision_chunk_size, plugin)
    if hasattr(type(model), "options"):
        model.options = front.options
    return Checkpoint(
        plugin=plugin,
        family=found.family,
        source=found,
        hooks=hooks,
        options=front.options,
        model=model if is_placed(model) else model.to(device),
        tokenizer=front.tokenizer,
        slicer=front.slicer,
        preprocessor=front.preprocessor,
        template=front.template,
        card=_card(plugin, found, dataclasses.asdict(front.options)),
        seed=seed if found.is_preset else None,
        beside=beside,
    )


def plugin_of(source: str) -> str:
    """The plugin that the ``polylens.json`` of a folder names.

    Raises:
        InputError: there is none.
    """
    folder = Path(source).expanduser()
    card = ModelCard.read(folder) if folder.is_dir() else None
    if card is None:
        reason = "has no polylens.json" if folder.is_dir() else "is no folder; if it is a preset or a hub id"
        raise InputError(f"{source} {reason}, say which plugin knows it: --model-plugin NAME")
    return card.plugin


def _set_vision_chunk_size(model: PreTrainedModel, size: int, plugin: str) -> None:
    if size < 1:
        raise InputError(f"vision_chunk_size is {size}; it must be at least 1")
    if not hasattr(type(model), "vision_chunk_size"):
        raise InputError(
            f"vision_chunk_size is {size}, but models of plugin {plugin!r} see all crops of a micro-batch at once: "
            "leave the option out, and take smaller micro-batches where memory is short"
        )
    model.vision_chunk_size = size  # type: ignore[assignment]


def _card(plugin: str, found: ModelSource, options: dict[str, Any]) -> ModelCard:
    """The card of this very model; what it was trained with is kept, its options are the present ones."""
    if found.card is not None:
        return dataclasses.replace(found.card, options=options)
    return ModelCard(plugin=plugin, family=found.family.name, options=options, **found.family.defaults)
