"""Cross-entropy of a large vocabulary, whose logits exist for a few positions at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

__all__ = ["chunked_cross_entropy"]


def chunked_cross_entropy(
    head: Callable[[Tensor], Tensor], hidden: Tensor, targets: Tensor, weights: Tensor, *, positions: int
) -> Tensor:
    """The weighted sum of the cross-entropies of ``head(hidden)`` against ``targets``.

    Every chunk but the last keeps its hidden states alone and makes its logits again in the backward pass (Chen et al.
    2016, arXiv 1604.06174), which begins with the last one: the logits of one chunk exist at a time.

    ``head`` is called at least once, on no positions if there are none, so that its weights get a gradient on every
    rank. Where they are partitioned (ZeRO-3), all ranks make as many calls as the one with the most chunks.

    Args:
        head: a module or a method of one; makes logits [n, vocabulary] of hidden states [n, D].
        hidden: [N, D].
        targets: int64 [N].
        weights: [N], factors of the cross-entropies.
        positions: rows of a chunk.

    Returns:
        Scalar, in float32 at least.
    """
    chunks = list(zip(hidden.split(positions), targets.split(positions), weights.split(positions), strict=True))
    nothing = (hidden[:0], targets[:0], weights[:0])
    chunks += [nothing] * (_most_chunks(len(chunks), head) - len(chunks))
    *recomputed, last = chunks
    # Under ZeRO-3 a frozen weight is put away between the recomputed forward and the backward, which gathers it again;
    # checkpoint would compare shapes in between.
    options: dict[str, Any] = {"use_reentrant": False, "determinism_check": "none"}
    sums = [checkpoint(_chunk, head, *chunk, **options) for chunk in recomputed]
    return torch.stack([*sums, _chunk(head, *last)]).sum()


def _chunk(head: Callable[[Tensor], Tensor], hidden: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    logits = head(hidden)
    return _CrossEntropy.apply(logits, targets, weights)  # type: ignore[return-value]


class _CrossEntropy(torch.autograd.Function):
    """Keeps the logits as they are and one number a row, and makes softmax minus target of them on the way back.

    torch's own keeps the logarithm of the softmax as well, and needs room for the gradients of both.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        wide = _wide(logits)
        normaliser = wide.logsumexp(dim=1)
        own = wide.gather(1, targets[:, None]).squeeze(1)
        ctx.save_for_backward(logits, targets, weights, normaliser)
        return ((normaliser - own) * weights).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        logits, targets, weights, normaliser = ctx.saved_tensors
        softmax = (_wide(logits) - normaliser[:, None]).exp_()
        softmax.scatter_add_(1, targets[:, None], softmax.new_full((len(targets), 1), -1.0))
        return softmax.mul_((weights * gradient)[:, None]).to(logits.dtype), None, None


def _wide(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _most_chunks(own: int, head: Any) -> int:
    """The number of chunks of the rank that has the most, if weights are partitioned over ranks; at least 1."""
    module = getattr(head, "__self__", head)
    if not (isinstance(module, nn.Module) and any(hasattr(p, "ds_id") for p in module.parameters())):
        return own
    device = torch.accelerator.current_accelerator() if dist.get_backend() != "gloo" else None
    most = torch.tensor(own, device=device)
    dist.all_reduce(most, dist.ReduceOp.MAX)
    return int(most)
