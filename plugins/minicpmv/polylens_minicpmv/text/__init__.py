"""From a conversation to tokens: tokenizers, placeholders of pictures, and the template of each version."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from polylens_minicpmv import versions

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from polylens_minicpmv.text.template import MiniCPMVTemplate


def template_for(
    version: str, tokenizer: PreTrainedTokenizerBase, config: Mapping[str, Any], options: Any
) -> MiniCPMVTemplate:
    """The template of a version; ``options`` are those of its family.

    Raises:
        InputError: ``llm_type`` is that of another version.
    """
    from polylens_minicpmv.text.chatml import ChatMLTemplate
    from polylens_minicpmv.text.llama3 import Llama3Template
    from polylens_minicpmv.text.minicpm import MiniCPMTemplate

    if version in versions.NATIVE.values():
        from polylens_minicpmv.text.native import NativeTemplate

        return NativeTemplate(tokenizer)
    versions.check_llm_type(version, options.llm_type)
    original = options.compat.original_targets
    if version == "2.6":
        number = config.get("use_image_id", True)
        return ChatMLTemplate(tokenizer, original_targets=original, use_image_id=number)
    kind = {"2.0": MiniCPMTemplate, "2.5": Llama3Template}[version]
    return kind(tokenizer, original_targets=original)
