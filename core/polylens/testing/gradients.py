"""Checks of the model's gradients, in float64."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from polylens.contracts import Batch, Example
from polylens.engine.trainable import component_of
from polylens.testing.results import require
from polylens.testing.subject import TEXTS, Subject, picture

TOLERANCE = 1e-10
"""Relative error of a whole gradient (global L2 norm)."""


def every_component_is_trained(subject: Subject) -> str | None:
    """A loss on the hidden states of texts and pictures reaches the weights of every component.

    A merge that writes into the embeddings in place, or under ``no_grad``, cuts the vision tower off.
    """
    with subject.training() as model:
        loss_of(model, subject.batch(subject.examples())).backward()
        reached = {
            component_of(name, subject.family)
            for name, weight in model.named_parameters()
            if weight.grad is not None and weight.grad.abs().max() > 0
        }
    missing = [name for name in subject.family.components if name not in reached]
    require(not missing, f"no gradient reaches {', '.join(missing)}")
    return None


def text_alone_gives_zero_gradients(subject: Subject) -> str | None:
    """A batch without pictures gives trained vision weights a gradient of zero, not ``None``.

    Ranks whose micro-batch has no picture would otherwise leave the others waiting under DDP and ZeRO-3; see
    ``polylens.modeling.vision.must_touch``.
    """
    batch = subject.batch([subject.example(text) for text in TEXTS])
    for kept in (("vision", "connector"), ("connector",)):
        with subject.training() as model:
            train_only(subject, model, kept, also="llm")
            reached = _reached(subject, model, batch, kept)
    return reached


def _reached(subject: Subject, model: PreTrainedModel, batch: Batch, components: Sequence[str | None]) -> str:
    """Gradients of the components under the batch are those of the same components under pictures, and zero."""
    loss_of(model, subject.batch(subject.examples()[:1])).backward()
    used = {name for name, weight in model.named_parameters() if weight.grad is not None}
    model.zero_grad(set_to_none=True)
    loss_of(model, batch).backward()
    weights = {
        n: w for n, w in model.named_parameters() if n in used and component_of(n, subject.family) in components
    }
    none = [name for name, weight in weights.items() if weight.grad is None]
    require(not none, f"{len(none)} trained weights have no gradient, such as {', '.join(none[:3])}")
    moved = [name for name, weight in weights.items() if weight.grad is not None and weight.grad.abs().max() > 0]
    require(not moved, f"{len(moved)} weights have a gradient without any picture, such as {', '.join(moved[:3])}")
    return f"{len(weights)} weights"


def cached_gradient_equals_full_batch(subject: Subject) -> str | None:
    """The gradient cache over small micro-batches gives the gradient of one graph over the whole batch.

    Contrastive objective; queries are text, documents are pictures or text.
    """
    from polylens.engine.gradient_cache import GradientCache
    from polylens.objectives.contrastive import Contrastive, ContrastiveOptions

    examples, objective = _retrieval_batch(subject), Contrastive(ContrastiveOptions(temperature=0.5))
    whole = subject.batch(examples)
    with subject.training() as model:
        outputs = model(whole, outputs=objective.inputs_needed)
        made = objective.representations(outputs, whole)
        queries, documents = made["query"].values, made["document"].values
        nn.functional.cross_entropy(queries @ documents.T / 0.5, torch.arange(len(queries))).backward()
        wanted = gradients_of(model)
    worst = 0.0
    for size in (1, 3):
        with subject.training() as model:
            cache = GradientCache(lambda batch: model(batch, outputs=objective.inputs_needed), objective)
            cache.step([subject.batch(examples[i : i + size]) for i in range(0, len(examples), size)])
            error = relative_error(gradients_of(model), wanted)
        require(error <= TOLERANCE, f"micro-batches of {size}: relative error {error:.1e} (allowed {TOLERANCE:.0e})")
        worst = max(worst, error)
    return f"relative error {worst:.1e}"


def _retrieval_batch(subject: Subject) -> list[Example]:
    """Three queries and their documents, one of which is text."""
    documents = [(picture(90, 60), "\n"), (" ".join(TEXTS),), (picture(40, 150, seed=5), "\n")]
    rows = [(0, i, (text,)) for i, text in enumerate(TEXTS)] + [(1, i, parts) for i, parts in enumerate(documents)]
    return [subject.example(*parts, rows={"role": role, "position": i}) for role, i, parts in rows]


def gradient_checkpointing_changes_nothing(subject: Subject) -> str | None:
    """Recomputing activations in the backward pass gives the same gradient."""
    batch = subject.batch(subject.examples())
    with subject.training(exact=False) as model:
        require(model.supports_gradient_checkpointing, "supports_gradient_checkpointing is false")
        loss_of(model, batch).backward()
        wanted = gradients_of(model)
    with subject.training(exact=False) as model:
        model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
        try:
            loss_of(model, batch).backward()
        finally:
            model.activation_checkpointing_disable()
        error = relative_error(gradients_of(model), wanted)
    require(error <= TOLERANCE, f"relative error {error:.1e} (allowed {TOLERANCE:.0e})")
    return f"relative error {error:.1e}"


def relative_error(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> float:
    """L2 norm of the difference of two gradients over that of the second; a missing gradient is zero."""
    names = found.keys() | wanted.keys()
    zero = torch.zeros(())
    away = sum(float((found.get(n, zero) - wanted.get(n, zero)).pow(2).sum()) for n in names)
    return (away / sum(float(g.pow(2).sum()) for g in wanted.values())) ** 0.5


def loss_of(model: PreTrainedModel, batch: Batch) -> Tensor:
    """Depends on every real position in another way."""
    hidden = model(batch, outputs=frozenset({"hidden"})).hidden[batch.attention_mask]
    weights = torch.linspace(-1, 1, hidden.numel(), dtype=hidden.dtype).view_as(hidden)
    return (hidden * weights).sum()


def gradients_of(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the gradient of every weight that has one."""
    return {n: w.grad.clone() for n, w in model.named_parameters() if w.grad is not None}


def train_only(subject: Subject, model: nn.Module, components: Iterable[str], also: str) -> None:
    """Train the weights of some components and of one more, as far as the model itself trains them."""
    for name, weight in model.named_parameters():
        trained = component_of(name, subject.family) in (*components, also)
        weight.requires_grad_(trained and weight.requires_grad)


CHECKS = (
    every_component_is_trained,
    text_alone_gives_zero_gradients,
    cached_gradient_equals_full_batch,
    gradient_checkpointing_changes_nothing,
)
