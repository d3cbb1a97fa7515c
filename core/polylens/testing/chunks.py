"""Checks of ``vision_chunk_size``: how many crops the tower sees at a time shows in memory alone."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator

import torch
from torch import Tensor

from polylens.contracts import Batch
from polylens.engine.trainable import component_of
from polylens.testing.gradients import gradients_of, loss_of, relative_error, train_only
from polylens.testing.models import difference, forward
from polylens.testing.results import require
from polylens.testing.subject import TEXTS, Subject

TOLERANCE = 1e-10
"""Of an output relative to its largest value, and of a whole gradient (global L2 norm)."""

SIZES = (1, 2, 3)
NOT_OFFERED = "the model has no vision_chunk_size"


def vision_chunks_change_no_output(subject: Subject) -> str | None:
    """Features, visual tokens and hidden states do not depend on ``vision_chunk_size``, over crops of ragged sizes.

    What the tower is called with does. A model without the attribute passes: it sees all crops at once.
    """
    if not _has_chunks(subject):
        return NOT_OFFERED
    worst = 0.0
    for what, batch in _batches(subject).items():
        wanted = _outputs(subject, batch)
        for size in SIZES:
            with _chunks_of(subject, size):
                for name, found in _outputs(subject, batch).items():
                    if found.numel():
                        label = f"{what}: {name} with chunks of {size}"
                        worst = max(worst, difference(found, wanted[name], label, TOLERANCE))
    _require_more_calls(subject)
    return f"largest difference {worst:.1e}"


def vision_chunks_change_no_gradient(subject: Subject) -> str | None:
    """The gradient does not depend on ``vision_chunk_size``, whether tower and connector are trained or frozen."""
    if not _has_chunks(subject):
        return NOT_OFFERED
    worst = 0.0
    for kept in (("vision", "connector"), ("vision",), ("connector",), ()):
        for what, batch in _batches(subject).items():
            wanted = _gradients(subject, batch, kept)
            for size in SIZES if len(kept) == 2 and what == "pictures" else SIZES[1:2]:
                with _chunks_of(subject, size):
                    found = _gradients(subject, batch, kept)
                label = f"{what}, {', '.join((*kept, 'llm'))} trained, chunks of {size}"
                worst = max(worst, _gradient_error(found, wanted, label))
    return f"relative error {worst:.1e}"


def _has_chunks(subject: Subject) -> bool:
    return hasattr(type(subject.model), "vision_chunk_size")


def _batches(subject: Subject) -> dict[str, Batch]:
    texts = [subject.example(text) for text in TEXTS[:2]]
    return {"pictures": subject.batch(subject.examples()), "text alone": subject.batch(texts)}


@contextlib.contextmanager
def _chunks_of(subject: Subject, size: int | None) -> Iterator[None]:
    model, before = subject.model, subject.model.vision_chunk_size
    model.vision_chunk_size = size  # type: ignore[assignment]
    try:
        yield
    finally:
        model.vision_chunk_size = before


def _outputs(subject: Subject, batch: Batch) -> dict[str, Tensor]:
    made = forward(subject, batch, ["vision", "connector", "hidden"])
    assert made.vision is not None
    assert made.connector is not None
    assert made.hidden is not None
    seen = [crop.flatten() for crop in made.vision]
    return {
        "vision": torch.cat(seen) if seen else torch.empty(0),
        "connector": made.connector,
        "hidden": made.hidden[batch.attention_mask],
    }


def _gradients(subject: Subject, batch: Batch, kept: tuple[str, ...]) -> dict[str, Tensor]:
    with subject.training(exact=False) as model:  # chunks are computed again inside the backward pass
        train_only(subject, model, kept, also="llm")
        loss_of(model, batch).backward()
        return gradients_of(model)


def _gradient_error(found: dict[str, Tensor], wanted: dict[str, Tensor], label: str) -> float:
    require(found.keys() == wanted.keys(), f"{label}: other weights have a gradient than without chunks")
    error = relative_error(found, wanted)
    require(error <= TOLERANCE, f"{label}: relative error {error:.1e} (allowed {TOLERANCE:.0e})")
    return error


def _require_more_calls(subject: Subject) -> None:
    """Chunks of one crop call the tower once for each crop, not once."""
    batch = subject.batch(subject.examples())
    together = _calls(subject, batch)
    with _chunks_of(subject, 1):
        alone = _calls(subject, batch)
    crops = len(batch.crop_rows)
    never = [name for name, count in together.items() if alone[name] < crops * count]
    require(not never, f"chunks of 1 over {crops} crops: {', '.join(never[:3])} called no more often than without")


def _calls(subject: Subject, batch: Batch) -> Counter[str]:
    """How often each module of the vision tower with weights of its own is called."""
    counted: Counter[str] = Counter()
    handles = [
        module.register_forward_pre_hook(lambda *_, name=name: counted.update([name]))
        for name, module in subject.model.named_modules()
        if any(
            component_of(f"{name}.{own}", subject.family) == "vision"
            for own, _ in module.named_parameters(recurse=False)
        )
    ]
    try:
        forward(subject, batch, ["hidden"])
    finally:
        for handle in handles:
            handle.remove()
    return counted


CHECKS = (vision_chunks_change_no_output, vision_chunks_change_no_gradient)
