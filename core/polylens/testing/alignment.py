"""Checks of what an objective reads beside hidden states: visual tokens, and embeddings of ids; in float64."""

from __future__ import annotations

import dataclasses

import torch

from polylens.contracts import Batch, Example, ImageRef, Message, Record
from polylens.data.images import ImageOpener
from polylens.data.ocr.lines import OcrLine
from polylens.data.regions import PlainTokens, RegionFinder
from polylens.engine.gradient_cache import GradientCache
from polylens.engine.training_module import TrainingModule
from polylens.objectives.multi_granularity import MultiGranularity, MultiGranularityOptions
from polylens.objectives.stop_words import StopWords
from polylens.testing.gradients import TOLERANCE, gradients_of, relative_error
from polylens.testing.models import forward
from polylens.testing.results import require
from polylens.testing.subject import TEXTS, Subject, encoded, picture


def visual_tokens_are_in_the_order_of_their_rows(subject: Subject) -> str | None:
    """``Outputs.connector`` of a batch is that of its rows one after the other: tokens are found by their number."""
    examples = subject.examples()
    whole = forward(subject, subject.batch(examples), ["connector"]).connector
    parts = [forward(subject, subject.batch([e]), ["connector"]).connector for e in examples if e.crop_tokens]
    assert whole is not None
    alone = torch.cat([part for part in parts if part is not None])
    require(
        whole.shape == alone.shape, f"connector is {tuple(whole.shape)}, and that of its rows {tuple(alone.shape)}"
    )
    apart = float((whole - alone).abs().max() / alone.abs().max())
    require(apart < 1e-9, f"visual tokens of a batch are not those of its rows: they differ by {apart:.1e}")
    return f"{len(whole)} tokens"


def alignment_does_not_depend_on_micro_batches(subject: Subject) -> str | None:
    """``multi_granularity`` with negatives: the gradient of rows one by one is that of all rows at once."""
    objective = MultiGranularity(
        MultiGranularityOptions(form="infonce", global_weight=0.5, local_weight=0.5), StopWords([])
    )
    examples = _answers(subject, objective)
    found = []
    for size in (len(examples), 1):
        with subject.training() as model:
            batches = [subject.batch(examples[i : i + size]) for i in range(0, len(examples), size)]
            _step(TrainingModule(model, objective), objective, batches)
            found.append(gradients_of(model))
    whole, parts = found
    error = relative_error(parts, whole)
    require(error <= TOLERANCE, f"relative error {error:.1e} (allowed {TOLERANCE:.0e})")
    return f"relative error {error:.1e}"


def _step(module: TrainingModule, objective: MultiGranularity, batches: list[Batch]) -> None:
    from polylens.engine.accumulation import Accumulation

    result = GradientCache.of_module(module, objective, Accumulation()).step(batches)
    require(bool(torch.isfinite(result.loss)), f"the loss is {float(result.loss)}")
    require(result.counts["line_text"] > 0, "no line of text has a visual token")


class _Halves:
    """A line in the upper and one in the lower half of any picture."""

    def of(self, image: ImageRef, size: tuple[int, int] | None = None) -> tuple[OcrLine, ...]:
        assert size is not None
        width, height = size
        return (
            OcrLine((0.0, 0.0, float(width), height / 2), TEXTS[0], 0.9),
            OcrLine((0.0, height / 2, float(width), float(height)), TEXTS[1], 0.8),
        )


def _answers(subject: Subject, objective: MultiGranularity) -> list[Example]:
    """Questions about two pictures and one about none, with their answers."""
    checkpoint = subject.checkpoint
    assert objective.cover is not None
    tokens = PlainTokens(checkpoint.tokenizer)  # type: ignore[arg-type]
    finder = RegionFinder(objective.cover, tokens, _Halves())  # type: ignore[arg-type]
    preparer = dataclasses.replace(checkpoint.preparer(ImageOpener()), finder=finder)
    shown = ((encoded(picture(90, 60)),), (encoded(picture(40, 150, seed=5)),), ())
    made = []
    for number, parts in enumerate(shown):
        turns = (Message("user", (*parts, TEXTS[number])), Message("assistant", (TEXTS[number - 1],)))
        made.append(preparer.example(Record(str(number), turns), rows={"picture": number}))
    return made


CHECKS = (visual_tokens_are_in_the_order_of_their_rows, alignment_does_not_depend_on_micro_batches)
