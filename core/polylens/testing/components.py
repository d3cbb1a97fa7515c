"""Checks of what is trained, component by component, in float64."""

from __future__ import annotations

import copy
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from transformers import PreTrainedModel

from polylens.config.run import LoraSettings
from polylens.contracts import Batch, Objective
from polylens.engine.trainable import choose_trained, component_of
from polylens.testing.models import difference
from polylens.testing.precision import Float64Throughout
from polylens.testing.results import require
from polylens.testing.subject import Subject

RATE = 1e-3
RANK = 2


class _OnAnything(Objective):
    """Stands for an objective that looks at hidden states and logits."""

    inputs_needed = frozenset({"hidden", "logits"})


def tuning_touches_its_component_alone(subject: Subject) -> str | None:
    """With ``tune`` naming one component, training changes weights of it and nothing else."""
    batch = subject.batch(subject.examples())
    for component in subject.family.components:
        model = _prepared(subject, [component], LoraSettings())
        changed = _trained(model, batch, steps=1)
        require(changed, f"tune {component}: no weight changes")
        outside = [name for name in changed if component_of(name, subject.family) != component]
        require(not outside, f"tune {component}: {len(outside)} others change, such as {', '.join(outside[:3])}")
    return f"{len(subject.family.components)} components"


def adapters_touch_their_component_alone(subject: Subject) -> str | None:
    """LoRA on a component trains its adapters and nothing else, and every one of them.

    A new adapter changes no output. One over a layer whose weight is read without calling the layer never works.
    """
    batch = subject.batch(subject.examples())
    for component in subject.family.lora_targets:
        before = _hidden(subject.model, batch)
        model = _prepared(subject, None, _lora(component))
        difference(_hidden(model, batch), before, f"LoRA on {component}: hidden states with a new adapter")
        changed = _trained(model, batch, steps=2)
        outside = [n for n in changed if ".lora_" not in n or component_of(n, subject.family) != component]
        require(not outside, f"LoRA on {component}: {len(outside)} others change, such as {', '.join(outside[:3])}")
        idle = [n for n, _ in model.named_parameters() if ".lora_" in n and n not in changed]
        require(not idle, f"LoRA on {component}: {len(idle)} adapter weights never change, such as {idle[:1]}")
    return ", ".join(subject.family.lora_targets)


def merged_adapters_change_nothing(subject: Subject) -> str | None:
    """An adapter that was saved, merged and loaded gives the hidden states that it gave over its base."""
    from polylens.engine.loading import load_checkpoint
    from polylens.engine.merge import merge_adapter
    from polylens.engine.saving import save_model_folder

    if not subject.family.lora_targets:
        return "the family has no lora_targets"
    batch = subject.batch(subject.examples())
    with tempfile.TemporaryDirectory() as name:
        base, adapter, merged = (Path(name) / part for part in ("base", "adapter", "merged"))
        save_model_folder(subject.checkpoint, base, subject.checkpoint.card)
        loaded = load_checkpoint(subject.plugin, str(base), dtype="float64")
        choose_trained(loaded.model, subject.family, _OnAnything(), None, _lora(*subject.family.lora_targets))
        _randomise_adapter(loaded.model)
        wanted = _hidden(loaded.model, batch)
        save_model_folder(loaded, adapter, replace(loaded.card, base_model=str(base)))
        merge_adapter(adapter, merged, plugin=subject.plugin)
        found = _hidden(load_checkpoint(subject.plugin, str(merged), dtype="float64").model, batch)
    require(not torch.equal(wanted, _hidden(subject.model, batch)), "the adapter has no effect")
    return f"largest difference {difference(found, wanted, 'hidden states of the merged model'):.1e}"


def _lora(*components: str) -> LoraSettings:
    return LoraSettings(enable=True, r=RANK, alpha=RANK, dropout=0.0, components=list(components))


def _prepared(subject: Subject, tune: list[str] | None, lora: LoraSettings) -> PreTrainedModel:
    """A copy of the model with its trained weights chosen."""
    model = copy.deepcopy(subject.model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        choose_trained(model, subject.family, _OnAnything(), tune, lora)
    return model


def _trained(model: PreTrainedModel, batch: Batch, steps: int) -> set[str]:
    """Names of the tensors that steps of gradient descent change; a tied weight has the first of its names."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    before = {name: tensor.detach().clone() for name, tensor in tensors.items()}
    for _ in range(steps):
        model.zero_grad(set_to_none=True)
        with Float64Throughout():
            made = model(batch, outputs=frozenset({"hidden", "logits"}))
            loss = made.hidden[batch.attention_mask].pow(2).sum() + made.logits.pow(2).mean()
            if loss.requires_grad:  # not where all that is trained lies outside of the graph
                loss.backward()
        with torch.no_grad():
            for weight in model.parameters():
                if weight.grad is not None:
                    weight -= RATE * weight.grad / weight.grad.norm().clamp(min=1e-12)
    return {name for name, tensor in before.items() if not torch.equal(tensor, tensors[name])}


def _randomise_adapter(model: PreTrainedModel) -> None:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if ".lora_" in name:
                weight.copy_(0.1 * torch.randn(weight.shape, generator=generator, dtype=torch.float64))


def _hidden(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    model.eval()
    with torch.no_grad(), Float64Throughout():
        return model(batch, outputs=frozenset({"hidden"})).hidden[batch.attention_mask]


CHECKS = (
    tuning_touches_its_component_alone,
    adapters_touch_their_component_alone,
    merged_adapters_change_nothing,
)
