"""polylens plugin for TinyLLaVA: the hooks, each a door to the module that does the work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polylens import hookimpl

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from polylens.contracts import ChatTemplate, ImagePreprocessor, ImageSlicer, ModelFamily


@hookimpl
def families() -> Sequence[ModelFamily]:
    from polylens_tinyllava.family import FAMILIES

    return FAMILIES


@hookimpl
def build_model(family: ModelFamily, config: Mapping[str, Any]) -> PreTrainedModel:
    from polylens_tinyllava.model import build

    return build(config)


@hookimpl
def tokenizer(source: Path) -> PreTrainedTokenizerBase:
    from polylens.modeling.tokenizers import load_tokenizer

    return load_tokenizer(source)


@hookimpl
def image_slicer(config: Mapping[str, Any], options: Any) -> ImageSlicer:
    from polylens_tinyllava.slicing import slicer_for

    return slicer_for(config, options)


@hookimpl
def image_preprocessor(config: Mapping[str, Any], options: Any) -> ImagePreprocessor:
    from polylens.modeling.square_pixels import SquarePreprocessor
    from polylens_tinyllava.processing import processing_for

    return SquarePreprocessor(processing_for(config, options))


@hookimpl
def chat_template(tokenizer: PreTrainedTokenizerBase, config: Mapping[str, Any], options: Any) -> ChatTemplate:
    from polylens_tinyllava.text.template import template_for

    begins = {"system": ""} if config.get("model_type") == "llava" else {}
    return template_for(tokenizer, options.template, **begins)
