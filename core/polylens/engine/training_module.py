"""The module that DDP and DeepSpeed wrap: a model together with its objective."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from polylens.contracts import Batch, Objective, Outputs
from polylens.engine.encoded import Encoded, encoded_outputs


class ObjectiveParameters(nn.Module):
    """Holds the objective's own parameters. Calling it is how they are read, because ZeRO-3 gathers weights around
    calls of the module that owns them."""

    def __init__(self, objective: Objective) -> None:
        super().__init__()
        for name, parameter in objective.parameters().items():
            self.register_parameter(name, parameter)

    def forward(self) -> dict[str, Tensor]:
        return {name: parameter * 1 for name, parameter in self.named_parameters()}


class TrainingModule(nn.Module):
    """Turns a batch into what the gradient cache needs, inside one forward.

    Args:
        model: with the entry ``forward(batch, outputs=...) -> Outputs``.
    """

    def __init__(self, model: PreTrainedModel, objective: Objective) -> None:
        super().__init__()
        self.model = model
        self.objective = objective
        self.objective_parameters = ObjectiveParameters(objective)

    @property
    def config(self) -> Any:
        """Where Trainer and accelerate look for the model's sizes."""
        return self.model.config

    def activation_checkpointing_enable(self, **options: Any) -> None:
        self.model.activation_checkpointing_enable(**options)

    def gradient_checkpointing_enable(self, **options: Any) -> None:
        """What callers other than Trainer still use."""
        self.model.gradient_checkpointing_enable(**options)

    def forward(self, batch: Batch, normalisers: Mapping[str, float] | None = None) -> Encoded:
        outputs = self._outputs(batch, first=self.objective.is_coupled and normalisers is None)
        parameters = self.objective_parameters() if self.objective.parameters() else {}
        return encoded_outputs(outputs, batch, self.objective, normalisers, parameters)

    def _outputs(self, batch: Batch, *, first: bool) -> Outputs:
        """In place of all logits the hidden states and the head: an objective makes logits where it needs them."""
        needed = self.objective.inputs_needed
        if first and self.objective.first_inputs is not None:
            needed = self.objective.first_inputs
        options = {"embed_ids": self.objective.embed_ids(batch)} if "embeddings" in needed else {}
        if "logits" not in needed:
            return self.model(batch, outputs=needed, **options)
        outputs = self.model(batch, outputs=needed - {"logits"} | {"hidden"}, **options)
        outputs.head = self.model.head
        return outputs
