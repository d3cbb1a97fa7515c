"""The loss on conversations that are held out, while a model trains."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from polylens.contracts import Batch, Collator, Objective, Representation
from polylens.engine import distributed
from polylens.engine.conversation_steps import ConversationRecords
from polylens.engine.exchange import gather
from polylens.engine.loaders import served
from polylens.engine.planner import Budget, plan
from polylens.engine.steps import Row
from polylens.engine.stream import MicroBatches, unpack
from polylens.engine.training_module import TrainingModule
from polylens.objectives.coupling import couple


@dataclass(frozen=True, slots=True)
class ValidationLoss:
    """Measures the loss of all records as one batch, shared by the ranks.

    Args:
        rows: conversations of one forward pass.
        loader: keyword arguments of ``torch.utils.data.DataLoader``.
    """

    records: ConversationRecords
    collator: Collator
    rows: int
    device: torch.device
    loader: dict[str, Any]

    def __call__(self, module: TrainingModule) -> dict[str, float]:
        """``loss``, the same on every rank; every one must call it."""
        rows = [Row(0, number, number) for number in range(len(self.records))]
        costs = [self.records.cost(row)[0] for row in rows]
        shares = plan(costs, [0] * len(rows), distributed.world_size(), Budget(rows=self.rows))
        own = [tuple(rows[i] for i in part) for part in shares[distributed.rank()]]
        normalisers = self.records.counts(rows)
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        made: dict[str, list[Representation]] = {}
        parameters: Mapping[str, Tensor] = {}
        for batch in self._batches(own):
            encoded = module(batch, normalisers)
            if encoded.additive is not None:
                total += encoded.additive
            parameters = encoded.parameters
            for name, representation in encoded.representations.items():
                made.setdefault(name, []).append(representation)
        if module.objective.is_coupled:
            total += self._coupled(module.objective, made, parameters)
        return {"loss": float(distributed.sum_tensor(total))}

    def _coupled(
        self, objective: Objective, made: Mapping[str, Sequence[Representation]], parameters: Mapping[str, Tensor]
    ) -> Tensor:
        """This rank's share of the part that couples all records."""
        gathered = gather(made)
        return couple(objective, gathered.values, gathered.own, None, parameters, gathered.labels).loss

    def _batches(self, parts: Sequence[tuple[Row, ...]]) -> Iterator[Batch]:
        found = served(MicroBatches(self.records, self.collator), parts, self.loader)
        return (unpack(packed).to(self.device, non_blocking=True) for packed in found)
