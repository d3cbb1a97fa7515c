"""From a conversation to tokens: tokenizers, placeholders of pictures, and the template of each version."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from polylens_minicpmv.options import MiniCPMVOptions
    from polylens_minicpmv.text.template import MiniCPMVTemplate


def template_for(
    version: str, tokenizer: PreTrainedTokenizerBase, config: Mapping[str, Any], options: MiniCPMVOptions
) -> MiniCPMVTemplate:
    """The template of a version."""
    from polylens_minicpmv.text.chatml import ChatMLTemplate
    from polylens_minicpmv.text.llama3 import Llama3Template
    from polylens_minicpmv.text.minicpm import MiniCPMTemplate

    original = options.compat.original_targets
    if version == "2.6":
        number = config.get("use_image_id", True)
        return ChatMLTemplate(tokenizer, original_targets=original, use_image_id=number)
    kind = {"2.0": MiniCPMTemplate, "2.5": Llama3Template}[version]
    return kind(tokenizer, original_targets=original)
