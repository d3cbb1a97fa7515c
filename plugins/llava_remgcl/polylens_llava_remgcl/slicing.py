"""The crops of a picture, and a place for each of its visual tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from polylens.contracts import ImageSlicer
from polylens.modeling.squares import SquareSlicer
from polylens_llava_remgcl.options import LlavaOptions
from polylens_llava_remgcl.processing import processing_for


def slicer_for(config: Mapping[str, Any], options: LlavaOptions) -> ImageSlicer:
    """The slicer of a checkpoint of either layout."""
    from polylens_llava_remgcl.configuration import read_config

    read, processing = read_config(config), processing_for(config, options)
    vision: Any = read.vision()
    return SquareSlicer(processing, vision.patch_size, class_token=True, strategy=read.vision_feature_select_strategy)
