"""The gradient of ``multi_granularity`` on real tiny VLMs, however a batch is cut, against one plain graph.

The reference goes over answers and OCR lines one by one. ``exactness.py zero`` takes a few cases along; run as a
script by every rank, this takes every case at every stage, prints one line a case and ends with an error if one is not
exact.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import logging
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.distributed as dist
from lm_exactness import Case, conversations, cross_entropies, exact, lm_loss, zero
from torch import Tensor
from torch.nn import functional as F

from polylens.contracts import IGNORE_INDEX, Batch, Example, ImageRef
from polylens.data.images import ImageOpener
from polylens.data.ocr.lines import OcrLine
from polylens.data.regions import PlainTokens, RegionFinder
from polylens.engine.loading import Checkpoint
from polylens.engine.random_state import RandomState
from polylens.engine.training_module import TrainingModule
from polylens.objectives.multi_granularity import MultiGranularity, MultiGranularityOptions

WEIGHTS = {"global_weight": 0.7, "local_weight": 0.4, "global_temperature": 0.3, "local_temperature": 0.2}


class KnownLines:
    """OCR lines of any picture: two whose text some others have too, and one that lies wholly outside."""

    def of(self, image: ImageRef, size: tuple[int, int] | None = None) -> tuple[OcrLine, ...]:
        assert size is not None
        width, height = size
        number = len(bytes(image.value)) % 3  # type: ignore[arg-type]
        return (
            OcrLine((0.0, 0.0, width / 2, height / 4), "the red wheel", 0.9),
            OcrLine((width / 3, height / 2, width, height * 0.8), f"line {number}", 0.4 + 0.1 * number),
            OcrLine((0.0, height * 0.6, width / 4, height), "turns", 0.75),
        )[: 1 + number]


@dataclass(frozen=True)
class GranularityCase(Case):
    """A way to train with ``multi_granularity``."""

    form: Literal["alignment", "infonce"] = "alignment"
    confidence_weighting: bool = False
    mask_padding: bool = False
    text_layer: Literal["embeddings", "last_hidden"] = "embeddings"

    def objective(self) -> MultiGranularity:
        return MultiGranularity(
            MultiGranularityOptions(
                form=self.form,
                confidence_weighting=self.confidence_weighting,
                mask_padding=self.mask_padding,
                text_layer=self.text_layer,
                normaliser=self.normaliser,
                logit_positions=self.logit_positions,
                tile_rows=2,
                **WEIGHTS,
            )
        )

    def examples(self, checkpoint: Checkpoint) -> list[Example]:
        """Those of ``lm``, of which two have one picture; an answer of stop words alone."""
        objective = self.objective()
        tokens = PlainTokens(checkpoint.tokenizer)  # type: ignore[arg-type]
        finder = RegionFinder(objective.cover, tokens, KnownLines())  # type: ignore[arg-type]
        rows = conversations(dataclasses.replace(checkpoint.preparer(ImageOpener()), finder=finder))
        for i, row in enumerate(rows):
            row.rows = {"picture": 10 + i if i != 4 else 10}
        return rows

    def loss(self, module: TrainingModule, batches: Iterable[Batch]) -> Tensor:
        objective: Any = module.objective
        names = frozenset({"logits", "hidden", "connector"})
        sums, counts = [], []
        whole, lines = _Pairs(), _Pairs()
        for batch in batches:
            draws = RandomState.branched().replayed() if self.form == "infonce" else contextlib.nullcontext()
            with draws:
                made = module.model(batch, outputs=names)
            table = module.model.get_input_embeddings()
            losses, supervised = cross_entropies(made.logits.view(*batch.input_ids.shape, -1), batch)
            sums += losses
            counts += supervised
            stop = objective._stop_words.found(batch.labels)
            visual = iter(made.connector.split(batch.visual_mask.sum(1).tolist()))
            for row in range(len(batch)):
                seen = next(visual)
                kept = (batch.labels[row] != IGNORE_INDEX) & ~stop[row]
                ids, regions = batch.labels[row][kept], objective._regions(batch).take([row])
                if len(seen) and len(ids):
                    text = table(ids) if self.text_layer == "embeddings" else made.hidden[row][kept]
                    shown = seen[regions.on_picture] if self.mask_padding else seen
                    picture = int(batch.rows["picture"][row])
                    whole.add(text.mean(0), shown.mean(0), tuple(ids.tolist()), picture, 1.0)
                id_runs = regions.ids.split(regions.id_counts.tolist())
                token_runs = regions.tokens.split(regions.token_counts.tolist())
                for ids, tokens, score in zip(id_runs, token_runs, regions.scores.tolist(), strict=True):
                    place = (int(batch.rows["picture"][row]), *tokens.tolist())
                    lines.add(table(ids).mean(0), seen[tokens].mean(0), tuple(ids.tolist()), place, score)
        total = lm_loss(self.normaliser, sums, counts)
        total = total + WEIGHTS["global_weight"] * whole.loss(self.form, WEIGHTS["global_temperature"], False)
        return total + WEIGHTS["local_weight"] * lines.loss(
            self.form, WEIGHTS["local_temperature"], self.confidence_weighting
        )


class _Pairs:
    """Texts and what shows them, one by one."""

    def __init__(self) -> None:
        self.texts: list[Tensor] = []
        self.images: list[Tensor] = []
        self.names: list[tuple[Any, Any]] = []
        self.scores: list[float] = []

    def add(self, text: Tensor, image: Tensor, text_name: Any, image_name: Any, score: float) -> None:
        self.texts.append(text)
        self.images.append(image)
        self.names.append((text_name, image_name))
        self.scores.append(score)

    def loss(self, form: str, temperature: float, confidence: bool) -> Tensor:
        mean = sum(self.scores) / len(self.scores)
        weights = [score + 1 - mean if confidence else 1.0 for score in self.scores]
        pairs = list(zip(self.texts, self.images, weights, strict=True))
        if form == "alignment":
            each = [-w * F.cosine_similarity(t, v, dim=0) / temperature for t, v, w in pairs]
            return torch.stack(each).mean()
        total: Any = 0.0
        for i, weight in enumerate(weights):
            same = [
                j for j in range(len(pairs)) if any(a == b for a, b in zip(self.names[i], self.names[j], strict=True))
            ]
            negatives = [j for j in range(len(pairs)) if j == i or j not in same]
            for mine, others in ((self.texts[i], self.images), (self.images[i], self.texts)):
                logits = torch.stack([F.cosine_similarity(mine, others[j], dim=0) for j in negatives]) / temperature
                total = total + weight * F.cross_entropy(logits[None], torch.tensor([negatives.index(i)])) / 2
        return total / len(pairs)


CASES = [
    GranularityCase(form="infonce"),
    GranularityCase(form="alignment", confidence_weighting=True, lora=True, dropout=0.1, rows=1),
    GranularityCase(form="infonce", confidence_weighting=True, text_rank=True, dropout=0.1, normaliser="samples"),
    GranularityCase(form="infonce", plugin="tinyllava", mask_padding=True, lora=True, tune=("connector",), rows=3),
    GranularityCase(form="infonce", text_layer="last_hidden", rows=1, tune=("connector", "llm"), dropout=0.1),
    GranularityCase(form="alignment", plugin="tinyllava", text_rank=True, mask_padding=True, text_layer="last_hidden"),
]


def main(more: bool) -> Iterator[tuple[str, float, float]]:
    """Without ``more``, a case for each kind of accumulation."""
    for case in CASES if more else CASES[2:3]:
        yield f"ddp {case}", exact(case), 1e-10
    stages = itertools.product((0, 1, 2, 3), CASES) if more else [(3, CASES[2])]
    for stage, case in stages:
        yield f"zero {stage} {case}", zero(case, stage), 1e-5
    if more:
        low_memory = dataclasses.replace(CASES[2], low_memory=True)
        for stage in (2, 3):
            yield f"zero {stage} {low_memory}", zero(low_memory, stage), 1e-5


if __name__ == "__main__":
    import deepspeed
    from deepspeed.utils import logger

    logger.setLevel(logging.ERROR)
    deepspeed.init_distributed("gloo")
    failed = 0
    for name, found, limit in main(more=True):
        print(f"{found:.1e} (at most {limit:.0e})  {name}", flush=True)
        failed += not found <= limit
    dist.destroy_process_group()
    sys.exit(failed)
