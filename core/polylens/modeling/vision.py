"""What every vision-language model needs around its tower: chunks of crops, merging visual tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def must_touch(*modules: nn.Module) -> bool:
    """Whether a batch without pictures must still call these modules.

    ZeRO-3 gathers partitioned weights at every call on every rank, so a rank that skips one leaves the others waiting
    for ever; data-parallel reduction waits for the gradient of every trained weight. The answer depends on the
    modules alone, never on the batch or the gradient mode, so that both passes of the gradient cache draw the same
    random numbers.
    """
    return any(p.requires_grad or hasattr(p, "ds_id") for p in _parameters(modules))


@dataclass(frozen=True, slots=True)
class Stage:
    """A part of the way from pixels to visual tokens, such as the tower or the connector.

    Attributes:
        call: makes of a sequence with one item per crop another such sequence; what becomes of a crop does not depend
            on the others.
        modules: those that ``call`` calls.
        blank: the item of a small blank crop.
        length: patches of an item, if ``call`` pads: crops of like length then share a chunk.
        light: those of ``modules`` that keep few activations; if they alone are trained, nothing is recomputed.
    """

    call: Callable[[Sequence[Any]], Sequence[Any]]
    modules: tuple[nn.Module, ...]
    blank: Any
    length: Callable[[Any], int] | None = None
    light: tuple[nn.Module, ...] = ()

    @property
    def is_recomputed(self) -> bool:
        """Whether its trained weights make autograd keep many activations."""
        light = {id(p) for p in _parameters(self.light)}
        return any(p.requires_grad and id(p) not in light for p in _parameters(self.modules))


def in_chunks(items: Sequence[Any], stages: Sequence[Stage], size: int | None) -> list[Any]:
    """What the stages make of all crops, ``size`` crops at a time, so that memory does not grow with their number.

    Stages before the first trained one keep no graph. From there on a chunk keeps its input alone and is computed
    again, under the same random numbers, when the backward pass reaches it: the activations of one chunk exist at a
    time (Chen et al. 2016, arXiv 1604.06174, with chunks as segments).

    A batch without crops calls the stages on a blank one where ``must_touch`` says so. Under ZeRO-3 every rank makes
    as many calls as the rank with the most chunks, on blank crops after its own.

    Args:
        items: one per crop, as the first stage takes them.
        size: ``None`` calls each stage once, with all crops, and recomputes nothing.

    Returns:
        One item per crop, then those of blank crops. Cut these off in a way that gives them a gradient of zero, such
        as ``torch.cat(made)[:tokens]``: a trained weight must get a gradient on every rank.
    """
    if not stages:
        return list(items)
    modules = [module for stage in stages for module in stage.modules]
    given = list(items) if items or not must_touch(*modules) else [stages[0].blank]
    chunks = _chunks(given, stages[0].length, size)
    missing = _most_chunks(len(chunks), modules) - len(chunks) if size else 0
    chunks += [[len(given) + i] for i in range(missing)]
    given += [stages[0].blank] * missing
    made: dict[int, Any] = {}
    for chunk in chunks:
        results = _pass(stages, [given[place] for place in chunk], recompute=size is not None)
        made.update(zip(chunk, results, strict=True))
    return [made[place] for place in range(len(given))]


def merge_visual_tokens(embeddings: Tensor, visual: Tensor, mask: Tensor) -> Tensor:
    """Put visual tokens into their slots, out of place, so that gradients reach both.

    Args:
        embeddings: [B, T, D].
        visual: [V, D], in the order of the crops; on any device.
        mask: bool [B, T] with V true positions.

    Raises:
        ValueError: the mask has another number of slots.
    """
    slots = int(mask.sum())
    if slots != len(visual):
        raise ValueError(f"the batch has {slots} slots for visual tokens, and {len(visual)} visual tokens")
    return embeddings.masked_scatter(mask.unsqueeze(-1), visual.to(embeddings))


def _parameters(modules: Iterable[nn.Module]) -> Iterable[nn.Parameter]:
    return (parameter for module in modules for parameter in module.parameters())


def _chunks(items: Sequence[Any], length: Callable[[Any], int] | None, size: int | None) -> list[list[int]]:
    """Places of the items of each chunk, the longest items first."""
    order = list(range(len(items)))
    if size is not None and length is not None:
        order.sort(key=lambda place: -length(items[place]))
    step = size or max(len(order), 1)
    return [order[start : start + step] for start in range(0, len(order), step)]


def _most_chunks(own: int, modules: Iterable[nn.Module]) -> int:
    """The number of chunks of the rank that has the most, if weights are partitioned over ranks."""
    if not any(hasattr(p, "ds_id") for p in _parameters(modules)):
        return own
    device = torch.accelerator.current_accelerator() if dist.get_backend() != "gloo" else None
    most = torch.tensor(own, device=device)
    dist.all_reduce(most, dist.ReduceOp.MAX)
    return int(most)


def _pass(stages: Sequence[Stage], items: Sequence[Any], *, recompute: bool) -> Sequence[Any]:
    trained = (i for i, stage in enumerate(stages) if stage.is_recomputed)
    first = next(trained, len(stages)) if recompute and torch.is_grad_enabled() else len(stages)
    items = _call(stages[:first], items)
    if first == len(stages):
        return items
    weight = next(iter(_parameters(stages[first].modules)))  # tells checkpoint whose random numbers to replay
    return checkpoint(_call, stages[first:], items, weight, use_reentrant=False, preserve_rng_state=True)


def _call(stages: Sequence[Stage], items: Sequence[Any], _: Tensor | None = None) -> Sequence[Any]:
    for stage in stages:
        items = stage.call(items)
    return items
