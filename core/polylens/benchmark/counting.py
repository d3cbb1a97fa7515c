"""What is known of an entry without its weights: what it trains, and how many tokens it sees of a picture."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from polylens import plugins
from polylens.benchmark.entries import Entry
from polylens.contracts import Record
from polylens.data.images import ImageOpener
from polylens.engine.estimate.parameters import count_parameters
from polylens.engine.frontend import load_frontend
from polylens.engine.sources import find_model
from polylens.engine.trainable import choose_trained
from polylens.engine.training import build_objective
from polylens.engine.weights import outline_of

__all__ = ["Counts", "count_entry"]


@dataclass(frozen=True, slots=True)
class Counts:
    """Numbers of an entry.

    Attributes:
        weights: of the model, without adapters.
        trained: weights that training changes, those of adapters among them.
        tokens: visual tokens of a test picture, on average; ``None`` without pictures.
    """

    weights: int
    trained: int
    tokens: float | None


def count_entry(entry: Entry, records: Iterable[Record], images: ImageOpener) -> Counts:
    """Count a model on the meta device; pictures are looked at by their headers.

    Raises:
        InputError: a picture or an option cannot be used.
    """
    hooks = plugins.load(entry.model.plugin)
    found = find_model(entry.model.model, hooks.families(), entry.model.plugin)
    model, trained = outline_of(hooks, found), 0
    weights = count_parameters(model, found.family).weights
    if entry.run is not None:
        choose_trained(
            model, found.family, build_objective(entry.run), entry.run.tune, entry.run.lora, entry.run.tune_from_layer
        )
        trained = count_parameters(model, found.family).trained
    slicer = load_frontend(hooks, found, entry.model.options).slicer
    sizes = [images.size(ref, record.where) for record in records for ref in record.images]
    tokens = sum(slicer.slice(size).visual_tokens for size in sizes) / len(sizes) if sizes else None
    return Counts(weights, trained, tokens)
