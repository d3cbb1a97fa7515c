"""polylens plugin for LLaVA, LLaVAR and REMGCL: the hooks, each a door to the module that does the work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polylens import hookimpl

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from polylens.contracts import ChatTemplate, Collator, ImagePreprocessor, ImageSlicer, ModelFamily


@hookimpl
def families() -> Sequence[ModelFamily]:
    from polylens_llava_remgcl.family import FAMILIES

    return FAMILIES


@hookimpl
def build_model(family: ModelFamily, config: Mapping[str, Any]) -> PreTrainedModel:
    from polylens_llava_remgcl.model import build

    return build(config)


@hookimpl
def tokenizer(source: Path) -> PreTrainedTokenizerBase:
    from polylens.modeling.tokenizers import load_tokenizer

    return load_tokenizer(source)


@hookimpl
def image_slicer(config: Mapping[str, Any], options: Any) -> ImageSlicer:
    from polylens_llava_remgcl.slicing import slicer_for

    return slicer_for(config, options)


@hookimpl
def image_preprocessor(config: Mapping[str, Any], options: Any) -> ImagePreprocessor:
    from polylens.modeling.preprocessing import BicubicPreprocessor
    from polylens.modeling.square_pixels import SquarePreprocessor
    from polylens_llava_remgcl.processing import processing_for, ratio_of

    processing = processing_for(config, options)
    if ratio_of(config, options) == "anyres":
        return BicubicPreprocessor(processing.mean, processing.std)
    return SquarePreprocessor(processing)


@hookimpl
def collator(tokenizer: PreTrainedTokenizerBase, padding_side: str) -> Collator:
    from polylens_llava_remgcl.collate import PictureCollator

    return PictureCollator(tokenizer.pad_token_id, padding_side)  # type: ignore[arg-type]


@hookimpl
def chat_template(tokenizer: PreTrainedTokenizerBase, config: Mapping[str, Any], options: Any) -> ChatTemplate:
    from polylens_llava_remgcl.text.template import template_for

    return template_for(tokenizer, options, use_start_end=bool(config.get("mm_use_im_start_end")))
