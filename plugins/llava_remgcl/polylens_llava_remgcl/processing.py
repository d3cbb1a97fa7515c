"""How the square picture of the tower is made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from polylens.errors import InputError
from polylens.modeling.processing import Processing, processing_of_file, processing_of_tower
from polylens_llava_remgcl.options import LlavaOptions

RATIOS = ("square", "pad", "anyres")


def ratio_of(config: Mapping[str, Any], options: LlavaOptions) -> str:
    """What becomes of pictures that are no squares; published files of transformers' layout mean ``pad``.

    Raises:
        InputError: ``config.json`` says something else than the ratios that there are.
    """
    unsaid = "pad" if "text_config" in config else "square"
    ratio = options.image_aspect_ratio or config.get("image_aspect_ratio") or unsaid
    if ratio not in RATIOS:
        raise InputError(
            f"config.json: /image_aspect_ratio is {ratio!r}; it may be {', '.join(RATIOS)}: set the option "
            "image_aspect_ratio"
        )
    return ratio


def processing_for(config: Mapping[str, Any], options: LlavaOptions) -> Processing:
    """The processing of a checkpoint: what ``image_processor`` says, or that of its tower as published."""
    from polylens_llava_remgcl.configuration import read_config

    own = config.get("image_processor")
    made = processing_of_file(own) if own else processing_of_tower(read_config(config).vision())
    return Processing(*made, pad=ratio_of(config, options) == "pad")
