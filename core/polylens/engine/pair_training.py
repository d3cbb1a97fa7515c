"""Training on pairs: retrieval."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from polylens.config.card import ModelCard
from polylens.config.run import RunConfig
from polylens.contracts import Objective
from polylens.data.documents import DocumentSource
from polylens.data.images import ImageOpener
from polylens.data.pairs import Pair, Pairs, read_pairs
from polylens.data.prepare import Preparer
from polylens.engine.arguments import loader_of
from polylens.engine.loading import Checkpoint
from polylens.engine.pair_steps import PairBatches, PairPlanner, PairRecords, check_enough_documents
from polylens.engine.tasks import MakeEvaluator, Task, seed_of_data
from polylens.engine.trainer import Evaluator
from polylens.errors import InputError

log = logging.getLogger(__name__)


@dataclass(slots=True)
class PairValidation:
    """What retrieval is measured on while a model trains."""

    pairs: Sequence[Pair]
    documents: DocumentSource
    checkpoint: Checkpoint
    preparer: Preparer
    card: ModelCard
    batch_size: int
    device: torch.device
    loader: dict[str, Any]


class PairTask(Task):
    """Queries and the documents that answer them."""

    style = "plain"

    def __init__(self, config: RunConfig, objective: Objective) -> None:
        super().__init__(config, objective)
        if config.data.batches == "modality":
            raise InputError("/data/batches: 'modality' is for conversations; pairs have 'shuffle' and 'file'")
        if config.data.ocr:
            raise InputError("/data/ocr: lines of text are for objectives that train on conversations")
        self.data = self._read(config.data.train, self.open_documents(), "quarantine")

    def card(self, card: ModelCard) -> ModelCard:
        """How vectors are made."""
        options: Any = getattr(self.objective, "options", None)
        data = self.config.data
        return dataclasses.replace(
            card,
            pooling=getattr(options, "pooling", card.pooling),
            normalize=getattr(options, "normalize", card.normalize),
            dimensions=sorted(getattr(options, "matryoshka_dims", None) or [], reverse=True),
            query_instruction=data.query_instruction,
            query_max_length=data.query_max_length,
            document_max_length=data.document_max_length,
        )

    def planner(self, checkpoint: Checkpoint, args: TrainingArguments, accumulation: int) -> PairPlanner:
        """Every global batch of a step is contrasted within itself."""
        size = args.per_device_train_batch_size * args.world_size
        check_enough_documents(self.data.pairs, size)
        batches = PairBatches(
            self.data.pairs,
            size,
            seed=seed_of_data(args),
            shuffle=self.config.data.batches == "shuffle",
            drop_last=args.dataloader_drop_last,
        )
        if not len(batches):
            raise InputError(
                f"no batch has all its {size} queries, and --dataloader-drop-last leaves the others out: lower "
                "--per-device-train-batch-size, or leave that option out"
            )
        cache = self.config.gradient_cache
        lengths = (self.config.data.query_max_length, self.config.data.document_max_length)
        preparer = self._preparer(checkpoint, self.config.data.train[0], self.data.documents)
        return PairPlanner(
            PairRecords(self.data.pairs, self.data.documents, preparer, lengths),
            batches,
            rank=args.process_index,
            ranks=args.world_size,
            budget=self.budget(8),
            sort=cache.sort_by_cost,
            accumulation=accumulation,
            hard_negatives=self.config.data.hard_negatives,
            pixel_cache_bytes=int(cache.pixel_cache_gb * 2**30),
            passes=2 if self.objective.is_coupled else 1,
        )

    def evaluator(
        self, checkpoint: Checkpoint, args: TrainingArguments, card: ModelCard, make: MakeEvaluator | None
    ) -> Evaluator | None:
        """Retrieval over the documents that the validation pairs name."""
        path = self.config.data.validation
        if not path or make is None:
            return None
        pairs = self._read([path], self.data.documents, "quarantine.validation")
        return make(
            PairValidation(
                pairs.pairs,
                pairs.documents,
                checkpoint,
                self._preparer(checkpoint, path, pairs.documents),
                card,
                args.per_device_eval_batch_size,
                args.device,
                loader_of(args),
            )
        )

    def _read(self, paths: Sequence[str], documents: DocumentSource | None, aside: str) -> Pairs:
        """Pairs of files; bad records are counted and go to the file ``aside`` if the run is to go on without them."""
        quarantine = self.quarantine(aside)
        pairs = read_pairs(
            [Path(path) for path in paths],
            documents=documents,
            query_instruction=self.config.data.query_instruction,
            on_bad_record=self.config.data.on_bad_record,
            quarantine=quarantine,
        )
        if pairs.quarantined:
            log.warning("%d bad records were left out; see %s", pairs.quarantined, quarantine)
        return pairs

    def _preparer(self, checkpoint: Checkpoint, path: str, documents: DocumentSource) -> Preparer:
        root = Path(self.config.data.image_root or Path(path).parent)
        return checkpoint.preparer(ImageOpener(root, documents), style=self.style)
