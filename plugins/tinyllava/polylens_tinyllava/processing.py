"""How the picture of each tower is made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from polylens.errors import InputError
from polylens.modeling.processing import Processing, processing_of_file, processing_of_tower
from polylens_tinyllava.options import TinyLlavaOptions

RATIOS = ("square", "pad")


def processing_for(config: Mapping[str, Any], options: TinyLlavaOptions) -> Processing:
    """The processing of a checkpoint: what its own ``image_processor`` says, or that of its tower as published.

    Raises:
        InputError: an aspect ratio that TinyLLaVA cannot use.
    """
    ratio = options.image_aspect_ratio or config.get("image_aspect_ratio") or "square"
    if ratio not in RATIOS:
        raise InputError(
            f"config.json: /image_aspect_ratio is {ratio!r}; it may be {', '.join(RATIOS)}. Set the option "
            "image_aspect_ratio; the original has a third, anyres, whose pictures its own model cannot take"
        )
    own = config.get("image_processor")
    return Processing(*(processing_of_file(own) if own else _of_tower(config)), pad=ratio == "pad")


def _of_tower(config: Mapping[str, Any]) -> tuple[int, int | None, tuple[float, ...], tuple[float, ...]]:
    from polylens_tinyllava.configuration import read_config

    return processing_of_tower(read_config(config).vision())
