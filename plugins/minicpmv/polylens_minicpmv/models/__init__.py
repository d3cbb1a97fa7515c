"""One module for each version of MiniCPM-V, and what they share. Importing a version loads its language model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from polylens_minicpmv.models.base import MiniCPMVModel


def build(version: str, config: Mapping[str, Any]) -> MiniCPMVModel:
    """The model of a version, without weights, for the content of ``config.json``."""
    if version == "2.0":
        from polylens_minicpmv.models.minicpmv2 import MiniCPMV2, MiniCPMV2Config

        return MiniCPMV2(MiniCPMV2Config(**config))
    if version == "2.5":
        from polylens_minicpmv.models.minicpmv25 import MiniCPMV25, MiniCPMV25Config

        return MiniCPMV25(MiniCPMV25Config(**config))
    from polylens_minicpmv.models.minicpmv26 import MiniCPMV26, MiniCPMV26Config

    return MiniCPMV26(MiniCPMV26Config(**config))
