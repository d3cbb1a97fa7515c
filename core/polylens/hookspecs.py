"""The contract of a polylens plugin: eight hooks.

A plugin is a module (or any object) whose functions carry ``@polylens.hookimpl``, named by an entry point of the group
``polylens.plugins``. Hooks are factories: they are called once per run, and what they return does the work. A hook may
leave out arguments that it does not need. Modules that a plugin's entry point imports must not import torch or
transformers at their top level, so that ``polylens plugins list`` stays fast.

``--model-plugin NAME`` selects whose hooks answer; the core's own answers (``polylens.defaults``) come last.
``objective`` alone asks every installed plugin.
"""

from __future__ import annotations

# Specifications have no body.
# pyright: reportReturnType=false
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from polylens.contracts import (
        ChatTemplate,
        Collator,
        ImagePreprocessor,
        ImageSlicer,
        ModelFamily,
        Objective,
    )

PROJECT = "polylens"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)
"""Marks a function of a plugin as the implementation of the hook of the same name."""


@hookspec(firstresult=True)
def families() -> Sequence[ModelFamily]:  # type: ignore[empty-body]
    """The model families of this plugin. Pure data: recognising a checkpoint loads nothing."""


@hookspec(firstresult=True)
def build_model(family: ModelFamily, config: Mapping[str, Any]) -> PreTrainedModel:  # type: ignore[empty-body]
    """An untrained model for the ``config.json`` that was read.

    The core calls it on the meta device, under ZeRO-3 partitioning or on the CPU, and loads weights itself; so the
    constructor must create every tensor through torch's factory functions and read no file. The model has one
    entry, ``forward(batch, outputs={"hidden", ...}, logit_positions=None, embed_ids=None) -> Outputs``, and a method
    ``head(hidden)`` that makes logits of hidden states, for an objective that takes them in chunks. Weights are
    reached only by calling the module that owns them, and a batch without pictures still calls the vision tower where
    it is trained or partitioned (``polylens.modeling.vision.must_touch``). ``model.config.to_dict()`` must give back
    what ``config.json`` said.
    """


@hookspec(firstresult=True)
def tokenizer(family: ModelFamily, source: Path) -> PreTrainedTokenizerBase:  # type: ignore[empty-body]
    """The tokenizer of a checkpoint folder, with the family's special tokens.

    Raises:
        InputError: the folder has no tokenizer, or one without the family's image tokens.
    """


@hookspec(firstresult=True)
def image_slicer(family: ModelFamily, config: Mapping[str, Any], options: Any) -> ImageSlicer:  # type: ignore[empty-body]
    """Decides the crops of a picture from its size."""


@hookspec(firstresult=True)
def image_preprocessor(  # type: ignore[empty-body]
    family: ModelFamily, config: Mapping[str, Any], options: Any
) -> ImagePreprocessor:
    """Cuts crops out of a picture as uint8, and says how the model normalises them.

    The core's answer resizes bicubically and normalises with mean and standard deviation 0.5.
    """


@hookspec(firstresult=True)
def chat_template(  # type: ignore[empty-body]
    family: ModelFamily, tokenizer: PreTrainedTokenizerBase, config: Mapping[str, Any], options: Any
) -> ChatTemplate:
    """Turns a conversation into token ids, labels and the places of visual tokens."""


@hookspec(firstresult=True)
def collator(family: ModelFamily, tokenizer: PreTrainedTokenizerBase, padding_side: str) -> Collator:  # type: ignore[empty-body]
    """Puts examples into a batch. The core's answer pads with the tokenizer's padding token."""


@hookspec(firstresult=True)
def objective(name: str, options: Mapping[str, Any]) -> Objective | None:
    """The objective of that name, or ``None`` if this plugin has none such.

    Raises:
        InputError: ``options`` has a name or a value that the objective does not know.
    """
