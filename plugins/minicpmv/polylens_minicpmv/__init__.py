"""polylens plugin for MiniCPM-V 2.0 to 4.7: the hooks, each a door to the module that does the work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polylens import hookimpl

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from polylens.contracts import ChatTemplate, ImageSlicer, ModelFamily


@hookimpl
def families() -> Sequence[ModelFamily]:
    from polylens_minicpmv.family import FAMILIES

    return FAMILIES


@hookimpl
def build_model(family: ModelFamily, config: Mapping[str, Any]) -> PreTrainedModel:
    from polylens_minicpmv.family import version_of
    from polylens_minicpmv.models import build

    return build(version_of(family), config)


@hookimpl
def tokenizer(family: ModelFamily, source: Path) -> PreTrainedTokenizerBase:
    from polylens_minicpmv.family import version_of
    from polylens_minicpmv.text.tokenization import load_tokenizer

    return load_tokenizer(source, version_of(family))


@hookimpl
def image_slicer(config: Mapping[str, Any], options: Any) -> ImageSlicer:
    from polylens_minicpmv.options import NativeOptions
    from polylens_minicpmv.slicing import merged_slicer_for, slicer_for

    return merged_slicer_for(config, options) if isinstance(options, NativeOptions) else slicer_for(config, options)


@hookimpl
def chat_template(
    family: ModelFamily, tokenizer: PreTrainedTokenizerBase, config: Mapping[str, Any], options: Any
) -> ChatTemplate:
    from polylens_minicpmv.family import version_of
    from polylens_minicpmv.text import template_for

    return template_for(version_of(family), tokenizer, config, options)
