"""What the two kinds of training data have in common for a run."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from transformers import TrainingArguments

from polylens.config.card import ModelCard
from polylens.config.run import RunConfig
from polylens.contracts import Objective
from polylens.data.documents import DocumentSource
from polylens.data.store import open_documents
from polylens.engine.loading import Checkpoint
from polylens.engine.planner import Budget
from polylens.engine.steps import StepPlanner
from polylens.engine.trainer import Evaluator
from polylens.errors import InputError

MakeEvaluator = Callable[[Any], Evaluator]
"""Makes what measures a model, out of a ``PairValidation`` or a ``ConversationValidation``."""


class Task(ABC):
    """The data of a run, read when it is made, and what follows from it.

    Attributes:
        style: of the template.
    """

    style: Literal["chat", "plain"]

    def __init__(self, config: RunConfig, objective: Objective) -> None:
        if not config.data.train:
            raise InputError(f"there is nothing to train on: give --train {objective.records}.jsonl")
        if config.data.validation_answers and not (objective.records == "conversations" and config.data.validation):
            raise InputError(
                "/data/validation_answers: answers are measured on conversations that are held out: give some as "
                "--validation, and an objective that trains on conversations, or leave the option out"
            )
        self.config, self.objective = config, objective

    @abstractmethod
    def card(self, card: ModelCard) -> ModelCard:
        """With what evaluation has to know of the data."""

    @abstractmethod
    def planner(self, checkpoint: Checkpoint, args: TrainingArguments, accumulation: int) -> StepPlanner:
        """What each step sees."""

    @abstractmethod
    def evaluator(
        self, checkpoint: Checkpoint, args: TrainingArguments, card: ModelCard, make: MakeEvaluator | None
    ) -> Evaluator | None:
        """What measures the model on validation data, if there are any."""

    def open_documents(self) -> DocumentSource | None:
        """The document stores of the run."""
        stores = self.config.data.documents
        return open_documents([Path(path) for path in stores]) if stores else None

    def quarantine(self, name: str) -> Path:
        """Every rank reads all data; each writes a file of its own, for a folder may be shared."""
        rank = int(os.environ.get("RANK", "0"))
        return Path(self.config.output_dir) / (f"{name}.jsonl" if rank == 0 else f"{name}.rank{rank}.jsonl")

    def budget(self, rows: int) -> Budget:
        """Of a micro-batch; ``rows`` if the run says nothing."""
        cache = self.config.gradient_cache
        if not cache.enable:
            return Budget()
        if cache.micro_batch_size is None and cache.micro_batch_tokens is None:
            return Budget(rows=rows)
        try:
            return Budget(rows=cache.micro_batch_size, tokens=cache.micro_batch_tokens)
        except ValueError as error:
            raise InputError(f"gradient_cache: {error}") from error


def seed_of_data(args: TrainingArguments) -> int:
    return args.data_seed if args.data_seed is not None else args.seed
