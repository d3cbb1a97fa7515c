"""All of a model but its weights: what turns records into examples. It is there at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from polylens.config.options import build_options
from polylens.contracts import ChatTemplate, ImagePreprocessor, ImageSlicer
from polylens.engine.reading import refusing
from polylens.engine.sources import ModelSource
from polylens.engine.weights import described


@dataclass(frozen=True, slots=True)
class Frontend:
    """What lies before the model.

    Attributes:
        options: of the family, as an instance of ``family.options``.
    """

    options: Any
    tokenizer: PreTrainedTokenizerBase
    slicer: ImageSlicer
    preprocessor: ImagePreprocessor
    template: ChatTemplate


def load_frontend(hooks: Any, found: ModelSource, options: Mapping[str, Any] | None = None) -> Frontend:
    """Ask a plugin for it.

    Args:
        hooks: of the plugin.
        options: of the family, over those that ``polylens.json`` names.

    Raises:
        InputError: an option that the family does not have, a tokenizer that cannot be read, a ``config.json`` that
            the plugin cannot follow.
    """
    family = found.family
    given = {**(found.card.options if found.card else {}), **(options or {})}
    chosen = build_options(family.options, given, f"model family {family.name!r}")
    with refusing(f"{found.folder}: the tokenizer cannot be read", trusted=found.is_preset):
        tokenizer = hooks.tokenizer(family=family, source=found.tokenizer)
    around = {"family": family, "config": found.config, "options": chosen}
    with described(found):
        slicer, preprocessor = hooks.image_slicer(**around), hooks.image_preprocessor(**around)
        template = hooks.chat_template(tokenizer=tokenizer, **around)
    return Frontend(chosen, tokenizer, slicer, preprocessor, template)
