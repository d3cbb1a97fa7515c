"""Every picture becomes one square, and a place for each of its visual tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from polylens.modeling.squares import SquareSlicer
from polylens_tinyllava.options import TinyLlavaOptions
from polylens_tinyllava.processing import processing_for

RESAMPLED = ("resampler", "qformer")


def slicer_for(config: Mapping[str, Any], options: TinyLlavaOptions) -> SquareSlicer:
    """The slicer of a checkpoint of any layout."""
    from polylens_tinyllava.configuration import MOF, read_config
    from polylens_tinyllava.connectors import query_count

    read, processing = read_config(config), processing_for(config, options)
    vision: Any = read.vision()
    return SquareSlicer(
        processing,
        vision.patch_size,
        class_token=vision.model_type != "siglip_vision_model",
        strategy=read.vision_feature_select_strategy,
        queries=query_count(read) if getattr(read, "connector_type", "") in RESAMPLED else None,  # type: ignore[arg-type]
        towers=2 if read.tower == MOF else 1,
    )
