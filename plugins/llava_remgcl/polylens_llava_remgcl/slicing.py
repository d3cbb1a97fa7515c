"""The crops of a picture, and a place for each of its visual tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from polylens.contracts import ImageSlicer, SlicedImage
from polylens.errors import InputError
from polylens.modeling.squares import PATCH, Size, SquareSlicer
from polylens_llava_remgcl.anyres import anyres_of
from polylens_llava_remgcl.options import LlavaOptions
from polylens_llava_remgcl.processing import processing_for, ratio_of


class WithEnd:
    """A square, and after its tokens the end of a line, as LLaVA 1.6 puts it also after a picture without tiles."""

    def __init__(self, square: SquareSlicer) -> None:
        self.square = square

    def slice(self, size: Size) -> SlicedImage:
        made = self.square.slice(size)
        (crop,), boxes = made.crops, made.token_boxes
        whole = np.concatenate([boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)])[None]
        return replace(
            made, crops=(replace(crop, tokens=crop.tokens + 1),), token_boxes=np.concatenate([boxes, whole])
        )


def slicer_for(config: Mapping[str, Any], options: LlavaOptions) -> ImageSlicer:
    """The slicer of a checkpoint of either layout.

    Raises:
        InputError: ``anyres`` with features that make no lines.
    """
    from polylens_llava_remgcl.configuration import read_config

    read, processing = read_config(config), processing_for(config, options)
    vision: Any = read.vision()
    patch, strategy = vision.patch_size, read.vision_feature_select_strategy
    if ratio_of(config, options) == "anyres":
        if strategy not in PATCH or processing.side % patch:
            raise InputError(
                f"config.json: the ratio 'anyres' needs the features 'patch' and whole patches; they are {strategy!r}"
                f", and {patch} of {processing.side} pixels"
            )
        return anyres_of(config, processing.side, processing.side // patch)
    square = SquareSlicer(processing, patch, class_token=True, strategy=strategy)
    return WithEnd(square) if "unpad" in str(config.get("mm_patch_merge_type")) else square
