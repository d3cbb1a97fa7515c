"""polylens plugin for MiniCPM-V: the hooks, each a door to the module that does the work.

This release reads MiniCPM-V 2.0.
"""

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
def build_model(config: Mapping[str, Any]) -> PreTrainedModel:
    from polylens_minicpmv.configuration import MiniCPMV2Config
    from polylens_minicpmv.model import MiniCPMV2

    return MiniCPMV2(MiniCPMV2Config(**config))


@hookimpl
def tokenizer(source: Path) -> PreTrainedTokenizerBase:
    from polylens_minicpmv.tokenization import load_tokenizer

    return load_tokenizer(source)


@hookimpl
def image_slicer(config: Mapping[str, Any], options: Any) -> ImageSlicer:
    from polylens_minicpmv.slicing import slicer_for

    return slicer_for(config, options)


@hookimpl
def chat_template(tokenizer: PreTrainedTokenizerBase, config: Mapping[str, Any], options: Any) -> ChatTemplate:
    from polylens_minicpmv.template import MiniCPMV2Template

    return MiniCPMV2Template(tokenizer, original_targets=options.compat.original_targets)
