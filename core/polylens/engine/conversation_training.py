"""Training on conversations: fine-tuning."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from polylens.config.card import ModelCard
from polylens.config.run import RunConfig
from polylens.contracts import Objective, Record
from polylens.data.conversations import Conversations, conversation_files, read_conversations
from polylens.data.images import ImageOpener
from polylens.data.ocr.lines import OcrLines, read_ocr_lines
from polylens.data.prepare import Preparer
from polylens.data.records import BadRecordsKept
from polylens.data.regions import missing_lines
from polylens.engine.arguments import loader_of
from polylens.engine.conversation_steps import ConversationPlanner, ConversationRecords, Measured, measure
from polylens.engine.loading import Checkpoint
from polylens.engine.steps import GlobalBatches, ModalityBatches
from polylens.engine.tasks import MakeEvaluator, Task, seed_of_data
from polylens.engine.trainer import Evaluator
from polylens.engine.training_module import TrainingModule
from polylens.engine.validation_loss import ValidationLoss
from polylens.errors import InputError

log = logging.getLogger(__name__)


@dataclass(slots=True)
class ConversationValidation:
    """What generation is measured on while a model trains.

    Attributes:
        records: held-out conversations; their last answers are what a model should say.
        preparer: of the style ``chat``.
    """

    records: Sequence[Record]
    checkpoint: Checkpoint
    preparer: Preparer
    card: ModelCard
    batch_size: int
    device: torch.device
    loader: dict[str, Any]


class ConversationTask(Task):
    """Questions and answers about pictures, or about none."""

    style = "chat"

    def __init__(self, config: RunConfig, objective: Objective) -> None:
        super().__init__(config, objective)
        _check_options(config)
        self.documents = self.open_documents()
        self.data = self._read(config.data.train, "quarantine")
        self.lines = self._read_lines()

    def card(self, card: ModelCard) -> ModelCard:
        """A conversation is a conversation, whatever it was trained on."""
        return card

    def planner(self, checkpoint: Checkpoint, args: TrainingArguments, accumulation: int) -> ConversationPlanner:
        """All conversations of a step are one global batch, so that accumulation does not show in the gradient."""
        records = self._measured(self.data, self.config.data.train, checkpoint, args, "quarantine.unfit")
        size = args.per_device_train_batch_size * args.world_size * accumulation
        batches = self._batches(records, size, args)
        if not len(batches):
            raise InputError(
                f"the {len(records)} conversations do not fill a step of {size}, and --dataloader-drop-last leaves "
                "others out: lower --per-device-train-batch-size or --gradient-accumulation-steps"
            )
        return ConversationPlanner(
            records,
            batches,
            rank=args.process_index,
            ranks=args.world_size,
            budget=self.budget(args.per_device_train_batch_size),
            sort=self.config.gradient_cache.sort_by_cost,
            pixel_cache_bytes=int(self.config.gradient_cache.pixel_cache_gb * 2**30),
            passes=2 if self.objective.is_coupled else 1,
        )

    def _batches(self, records: ConversationRecords, size: int, args: TrainingArguments) -> GlobalBatches:
        seed, drop_last, order = seed_of_data(args), args.dataloader_drop_last, self.config.data.batches
        if order == "modality":
            pictured = [bool(record.images) for record in records.records]
            return ModalityBatches(pictured, size, seed=seed, drop_last=drop_last)
        return GlobalBatches(len(records), size, seed=seed, shuffle=order == "shuffle", drop_last=drop_last)

    def evaluator(
        self, checkpoint: Checkpoint, args: TrainingArguments, card: ModelCard, make: MakeEvaluator | None
    ) -> Evaluator | None:
        """The loss on held-out conversations, and what ``make`` measures on them."""
        path = self.config.data.validation
        if not path:
            return None
        data = self._read([path], "quarantine.validation")
        records = self._measured(data, [path], checkpoint, args, "quarantine.validation.unfit")
        batch_size, loader = args.per_device_eval_batch_size, loader_of(args)
        loss = ValidationLoss(records, checkpoint.collator(), batch_size, args.device, loader)
        if make is None:
            return loss
        scores = make(
            ConversationValidation(
                records.records, checkpoint, records.preparer, card, batch_size, args.device, loader
            )
        )

        def evaluate(module: TrainingModule) -> dict[str, float]:
            return {**loss(module), **scores(module)}

        return evaluate

    def _read(self, paths: Sequence[str], aside: str) -> Conversations:
        quarantine = self.quarantine(aside)
        found = read_conversations(
            [Path(path) for path in paths],
            image_root=self.config.data.image_root,
            documents=self.documents,
            on_bad_record=self.config.data.on_bad_record,
            quarantine=quarantine,
        )
        if found.quarantined:
            log.warning("%d bad records were left out; see %s", found.quarantined, quarantine)
        return found

    def _read_lines(self) -> OcrLines | None:
        paths, objective = self.config.data.ocr, self.config.objective.name
        if not self.objective.reads_lines:
            if paths:
                raise InputError(f"/data/ocr: {objective!r}, with these options, reads no lines of text")
            return None
        if not paths:
            raise missing_lines(self.config.data.train)
        return read_ocr_lines(
            [Path(path) for path in paths],
            image_root=self.data.image_root,
            on_bad_record=self.config.data.on_bad_record,
            quarantine=self.quarantine("quarantine.ocr"),
        )

    def _measured(
        self, data: Conversations, paths: Sequence[str], checkpoint: Checkpoint, args: TrainingArguments, aside: str
    ) -> ConversationRecords:
        """The conversations that can be trained on; others are an error, or counted and set aside."""
        limit = self.config.data.max_length
        images = ImageOpener(data.image_root, self.documents)
        finder = checkpoint.finder(self.objective, self.lines)
        preparer = replace(checkpoint.preparer(images, style=self.style), finder=finder)
        decode = self.config.data.on_bad_record == "quarantine"
        found = measure(data.records, preparer, self.objective, limit, loader_of(args), decode=decode)
        unfit = {r.where: m for r, m in zip(data.records, found, strict=True) if isinstance(m, InputError)}
        self._set_aside(paths, unfit, aside)
        good = [(r, m) for r, m in zip(data.records, found, strict=True) if isinstance(m, Measured)]
        if not good:
            raise InputError(f"none of the {len(found)} conversations of {', '.join(paths)} can be trained on")
        return ConversationRecords([r for r, _ in good], preparer, limit, [m for _, m in good])

    def _set_aside(self, paths: Sequence[str], unfit: dict[str, InputError], aside: str) -> None:
        if not unfit:
            return
        if self.config.data.on_bad_record == "error":
            first = next(iter(unfit.values()))
            raise InputError(f"{first}{f' ({len(unfit) - 1} more such records)' if len(unfit) > 1 else ''}") from first
        file = self.quarantine(aside)
        BadRecordsKept(unfit).write(conversation_files(paths), file)
        log.warning("%d records that cannot be trained on were left out; see %s", len(unfit), file)


def _check_options(config: RunConfig) -> None:
    """Refuse what would do nothing."""
    given = {
        "hard_negatives": config.data.hard_negatives,
        "query_instruction": config.data.query_instruction,
    }
    for name, value in given.items():
        if value:
            raise InputError(f"/data/{name}: {config.objective.name!r} trains on conversations, and this is for pairs")
