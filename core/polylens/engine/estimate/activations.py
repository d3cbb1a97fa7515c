"""What the backward pass needs of the forward pass: an estimate from the shapes of linear layers.

The counting is that of Korthikanti et al. 2022 (Reducing Activation Recomputation in Large Transformer Models, arXiv
2205.05198, section 4.1): what each operation of a transformer block keeps for its gradient. It is done for the layers
that the model really has, with attention that keeps no matrix of scores (``sdpa``, ``flash_attention_2``). With h the
width of a block, k that of keys and of values, f that of the feed-forward layer, a gated block keeps for each token

    2 h   inputs of its two norms          h        input of q, k, v
    h + 2 k   q, k, v                      h        what attention gave
    h     input of the feed-forward layer  4 f      gate, up, their activation, their product

and a plain one 2 f in place of 4 f. An RMSNorm computes in float32 and keeps its input in it. A frozen linear layer
does not keep its input, and what lies below the first trained weight keeps nothing. An adapter keeps its inner
vector, and with dropout an input of its own. With gradient checkpointing a block keeps its input alone, and one block
at a time is computed again. The connector is counted as if all its layers saw every patch, which is more than they do.

A test compares blocks with what autograd keeps of them on the CPU. Not counted: what lies between the blocks
(embeddings, positions, the last norm), a coupled loss, what the allocator leaves unused, and the CUDA context (half a
GiB or more).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from polylens.contracts import ModelFamily, Objective, SlicedImage
from polylens.engine.trainable import component_of

ORDER = ("vision", "connector", "embed_tokens", "llm")
"""In which the components follow one another in the forward pass."""


@dataclass(frozen=True, slots=True)
class Activations:
    """Bytes that wait for the backward pass, without and with gradient checkpointing."""

    plain: int
    checkpointed: int


@dataclass(frozen=True, slots=True)
class Tokens:
    """Of one micro-batch: patches that the vision tower sees, and tokens that the language model sees."""

    vision: int
    text: int

    def of(self, component: str | None) -> int:
        return self.vision if component in ("vision", "connector") else self.text


def estimate_activations(
    model: PreTrainedModel, family: ModelFamily, tokens: Tokens, compute_bytes: int, logits: int = 0
) -> Activations:
    """Estimate for a model whose trained weights have been chosen, on any device.

    Args:
        logits: bytes that the loss takes. It is done with them before a block is computed again.
    """
    blocks, others, inputs = [], 0, 0
    for component, part in _parts_in_graph(model, family):
        kept = tokens.of(component) * _kept(part, compute_bytes)
        if component == "connector":
            others += kept
        else:
            blocks.append(kept)
            inputs += tokens.of(component) * compute_bytes * _width(part)
    return Activations(sum(blocks) + others + logits, inputs + others + max(*blocks, logits, 0))


def logit_bytes(model: PreTrainedModel, objective: Objective, tokens: Tokens) -> int:
    """Logits, their probabilities and gradients, in float32, of the positions that the objective looks at together."""
    head = model.get_output_embeddings()
    if "logits" not in objective.inputs_needed or head is None:
        return 0
    positions = getattr(getattr(objective, "options", None), "logit_positions", tokens.text)
    return 3 * 4 * min(positions, tokens.text) * head.weight.shape[0]


def patches(model: PreTrainedModel, family: ModelFamily, images: Sequence[SlicedImage]) -> int:
    """Tokens of the vision tower for some pictures: one a patch, or one a visual token if the tower has no patches."""
    convolutions = (
        module.kernel_size[-1]
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.Conv3d) and component_of(name, family) == "vision"
    )
    side = next(convolutions, None)
    crops = [crop for image in images for crop in image.crops]
    if side is None:
        return sum(crop.tokens for crop in crops)
    return sum((crop.size[0] // side) * (crop.size[1] // side) for crop in crops)


def _parts_in_graph(model: PreTrainedModel, family: ModelFamily) -> Iterator[tuple[str, nn.Module]]:
    """The blocks, and the connector, from the first trained weight on, with their components."""
    parts = [*_blocks(model), *((path, model.get_submodule(path)) for path in family.components.get("connector", ()))]
    names = tuple(name + "." for name, _ in parts)
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    started = False
    for component in ORDER:
        own = [name for name in trained if component_of(name, family) == component]
        # What is trained outside blocks comes before them, but for the last norm and the head of the language model.
        started = started or (component != "llm" and any(not name.startswith(names) for name in own))
        for _, part in (entry for entry in parts if component_of(entry[0], family) == component):
            started = started or _is_trained(part)
            if started:
                yield component, part
        started = started or bool(own)


def _blocks(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Members of the outermost module lists that hold linear layers."""
    inside: list[str] = []
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and not name.startswith(tuple(inside)):
            inside.append(name + ".")
            yield from ((f"{name}.{key}", block) for key, block in module.named_children() if _groups(block))


def _kept(block: nn.Module, size: int) -> int:
    """Bytes for each token."""
    layers = sum(_group_kept(attends, group, size) for attends, group in _groups(block))
    return layers + sum(
        _norm_kept(module, size) for module in block.modules() if "norm" in type(module).__name__.lower()
    )


def _norm_kept(norm: nn.Module, size: int) -> int:
    weight: Any = getattr(norm, "weight", None)
    if weight is None or weight.dim() != 1:
        return 0
    if isinstance(norm, nn.LayerNorm | nn.BatchNorm1d):
        return size * weight.numel()
    return (4 + (size if weight.requires_grad or size == 4 else 0)) * weight.numel()


def _group_kept(attends: bool, group: Sequence[Any], size: int) -> int:
    """Linear layers of one module: all but the last share an input, and the last one writes the result."""
    *readers, writer = group
    numbers = sum(layer.out_features for layer in readers)
    numbers += readers[0].in_features if readers and any(map(_is_trained, readers)) else 0
    numbers += writer.in_features if attends or _is_trained(writer) else 0
    numbers += writer.in_features if len(readers) == 2 and not attends else 0  # the activation of a gate
    return size * numbers + sum(_adapter_kept(layer, size) for layer in group)


def _adapter_kept(layer: Any, size: int) -> int:
    if not hasattr(layer, "lora_A"):
        return 0
    inner = sum(down.out_features for down in layer.lora_A.values())
    drops = any(getattr(dropout, "p", 0) for dropout in layer.lora_dropout.values())
    return size * inner + ((size + 1) * layer.in_features if drops else 0)


def _groups(block: nn.Module) -> list[tuple[bool, list[Any]]]:
    """The linear layers of each module of a block, and whether that module attends."""
    found = []
    for name, module in [("", block), *((n, m) for n, m in block.named_modules() if n and not _is_linear(m))]:
        layers = [child for child in module.children() if _is_linear(child)]
        if layers and not _inside_linear(block, name):
            found.append(("attn" in name.lower() or "attention" in name.lower(), layers))
    return found


def _inside_linear(block: nn.Module, name: str) -> bool:
    """Whether a module is a part of a linear layer, as an adapter is."""
    parts = name.split(".")
    return any(_is_linear(block.get_submodule(".".join(parts[:n]))) for n in range(1, len(parts)))


def _is_linear(module: nn.Module) -> bool:
    return isinstance(getattr(module, "in_features", None), int) and isinstance(module.out_features, int)


def _is_trained(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters())


def _width(block: nn.Module) -> int:
    return _groups(block)[0][1][0].in_features
