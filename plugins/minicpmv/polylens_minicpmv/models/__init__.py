"""One module for each version of MiniCPM-V, and what they share. Importing a version loads its language model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def build(version: str, config: Mapping[str, Any]) -> PreTrainedModel:
    """The model of a version, without weights, for the content of ``config.json``."""
    if version == "2.0":
        from polylens_minicpmv.models.minicpmv2 import MiniCPMV2, MiniCPMV2Config

        return MiniCPMV2(MiniCPMV2Config(**config))
    if version == "2.5":
        from polylens_minicpmv.models.minicpmv25 import MiniCPMV25, MiniCPMV25Config

        return MiniCPMV25(MiniCPMV25Config(**config))
    if version in ("4.6", "4.7"):
        from transformers import MiniCPMV4_6Config, MiniCPMV4_7Config

        from polylens_minicpmv.models import native

        if version == "4.6":
            return native.MiniCPMV4_6ForConditionalGeneration(MiniCPMV4_6Config.from_dict(dict(config)))
        return native.MiniCPMV4_7ForConditionalGeneration(MiniCPMV4_7Config.from_dict(dict(config)))
    from polylens_minicpmv.models.minicpmv26 import MiniCPMV26, MiniCPMV26Config

    return MiniCPMV26(MiniCPMV26Config(**config))
