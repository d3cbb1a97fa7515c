"""What every vision-language model needs around its tower: padding crops, merging visual tokens."""

from __future__ import annotations

from torch import Tensor, nn


def must_touch(*modules: nn.Module) -> bool:
    """Whether a batch without pictures must still call these modules.

    ZeRO-3 gathers partitioned weights at every call on every rank, so a rank that skips one leaves the others waiting
    for ever; data-parallel reduction waits for the gradient of every trained weight. The answer depends on the
    modules alone, never on the batch or the gradient mode, so that both passes of the gradient cache draw the same
    random numbers.
    """
    parameters = [p for module in modules for p in module.parameters()]
    return any(p.requires_grad or hasattr(p, "ds_id") for p in parameters)


def merge_visual_tokens(embeddings: Tensor, visual: Tensor, mask: Tensor) -> Tensor:
    """Put visual tokens into their slots, out of place, so that gradients reach both.

    Args:
        embeddings: [B, T, D].
        visual: [V, D], in the order of the crops.
        mask: bool [B, T] with V true positions.

    Raises:
        ValueError: the mask has another number of slots.
    """
    slots = int(mask.sum())
    if slots != len(visual):
        raise ValueError(f"the batch has {slots} slots for visual tokens, and {len(visual)} visual tokens")
    return embeddings.masked_scatter(mask.unsqueeze(-1), visual.to(embeddings.dtype))
