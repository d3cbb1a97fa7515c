"""What the core needs to know of a model family."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from polylens.composition import Borrowed, Composition, Export


ALL_LINEAR = "all-linear"
"""Name that stands for every linear layer, as in peft: for families whose language model may be any."""


@dataclass(frozen=True, slots=True)
class CheckpointLayout:
    """One way in which the weights of a family are named on disk.

    ``renames`` maps regular expressions over names on disk to names in the model, as ``key_mapping`` of
    ``PreTrainedModel.from_pretrained`` takes them. It is empty where both agree.

    ``parts``, for a model whose parts lie in folders of their own, maps each of these folders to what its names begin
    with in the model. Such a layout is read, never written.
    """

    name: str
    description: str = ""
    renames: Mapping[str, str] = field(default_factory=dict)
    parts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ModelFamily:
    """What the core needs to know of a model family before any weight is loaded.

    Attributes:
        name: unique within the plugin, such as ``minicpmv-2.0``.
        description: one line for ``polylens plugins list --families``.
        recognises: whether a checkpoint's ``config.json`` belongs to this family.
        components: component (``vision``, ``connector``, ``llm``, ``embed_tokens``) -> paths of its modules in the
            model. ``embed_tokens`` may lie inside ``llm``; the longest path wins.
        lora_targets: component -> names of the linear layers that LoRA adapts by default; ``ALL_LINEAR`` stands for
            all of the component, but for the output head.
        presets: name -> a folder of the plugin that holds ``config.json`` and a tokenizer, and no weights: the model
            starts from random weights. ``tiny`` must exist and train on a laptop CPU.
        layouts: how weights are named on disk; the first is the one that ``save`` writes.
        options: a dataclass of the family's own options with defaults (slicing limits, ``compat``). Its instance is
            what the hooks receive as ``options``.
        defaults: run options that published checkpoints of the family were trained with, such as
            ``{"pooling": "wmean"}``.
        beside_adapter: names of files (``torch.save``) that older programs of the family put beside an adapter, with
            whole modules which were trained along with it.
        composition: how a new model is made of parts; ``None`` if models of the family are always whole.
        borrows: component -> where its weights and sizes are if the checkpoint does not hold them, given the content
            of ``config.json`` and the family's options as far as they were set; ``None`` if checkpoints are complete.
        exports: name of another family -> how a model of this one becomes one of that.
    """

    name: str
    description: str
    recognises: Callable[[Mapping[str, Any]], bool]
    components: Mapping[str, tuple[str, ...]]
    lora_targets: Mapping[str, tuple[str, ...]]
    presets: Mapping[str, Path]
    layouts: tuple[CheckpointLayout, ...]
    options: type
    defaults: Mapping[str, Any] = field(default_factory=dict)
    beside_adapter: tuple[str, ...] = ()
    composition: Composition | None = None
    borrows: Callable[[Mapping[str, Any], Mapping[str, Any]], Mapping[str, Borrowed]] | None = None
    exports: Mapping[str, Export] = field(default_factory=dict)
