"""How the square picture of a vision tower is made: sizes and statistics of the published image processors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Made = tuple[int, int | None, tuple[float, ...], tuple[float, ...]]
"""Side, shorter side, mean, standard deviation."""

HALF = (0.5, 0.5, 0.5)
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
DINOV2_TRAINED, DINOV2_SIDE, DINOV2_SHORTEST = 518, 224, 256
"""The published processor of DINOv2 cuts 224 pixels out of 256, although ``image_size`` is 518."""


@dataclass(frozen=True, slots=True)
class Processing:
    """What becomes of a picture before the tower sees it.

    Attributes:
        side: of the square that the tower sees, in pixels.
        shortest: length of the shorter side after resizing, of which the middle square is cut out; ``None`` stretches
            the picture into the square.
        mean, std: per channel, in the range 0 to 1.
        pad: whether the picture is made a square first, with bars of the mean colour.
    """

    side: int
    shortest: int | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    pad: bool

    @property
    def background(self) -> tuple[int, ...]:
        """Colour of the bars, 0 to 255."""
        return tuple(int(value * 255) for value in self.mean)


def processing_of_tower(vision: Any) -> Made:
    """How pictures for a tower of this configuration are made, as published."""
    size = vision.image_size
    if vision.model_type == "dinov2":
        side, shortest = (DINOV2_SIDE, DINOV2_SHORTEST) if size == DINOV2_TRAINED else (size, size)
        return side, shortest, IMAGENET_MEAN, IMAGENET_STD
    if vision.model_type == "clip_vision_model":
        return size, size, CLIP_MEAN, CLIP_STD
    return size, None, HALF, HALF


def processing_of_file(own: Mapping[str, Any]) -> Made:
    """What a ``preprocessor_config.json`` says."""
    size, crop = own.get("size") or {}, own.get("crop_size") or {}
    mean, std = tuple(own.get("image_mean") or HALF), tuple(own.get("image_std") or HALF)
    shortest = size.get("shortest_edge")
    return (crop.get("height") or shortest, shortest, mean, std) if shortest else (size["height"], None, mean, std)
