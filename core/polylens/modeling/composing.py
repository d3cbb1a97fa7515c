"""``config.json`` of a new model, out of those of its parts: what families have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from polylens.errors import InputError

TOWERS = {
    "siglip": "siglip_vision_model",
    "siglip_vision_model": "siglip_vision_model",
    "clip": "clip_vision_model",
    "clip_vision_model": "clip_vision_model",
    "dinov2": "dinov2",
}
"""Types of models that hold a tower, and the tower's own type."""

NAMES = {"siglip_vision_model": "SigLIP", "clip_vision_model": "CLIP", "dinov2": "DINOv2"}
PROCESSING = ("size", "crop_size", "image_mean", "image_std")
_NOTES = ("_name_or_path", "transformers_version", "architectures")


def tower_config(config: Mapping[str, Any], usable: tuple[str, ...] = tuple(NAMES)) -> dict[str, Any]:
    """The configuration of a tower, which may be a part of that of a model of pictures and texts.

    Args:
        usable: types of towers that the family has a place for.

    Raises:
        InputError: there is no tower of such a type.
    """
    kind = TOWERS.get(str(config.get("model_type")))
    if kind not in usable:
        names = [NAMES[name] for name in usable]
        raise InputError(
            f"a model of type {config.get('model_type')!r} is no vision tower that can be used: "
            f"{' or '.join(filter(None, [', '.join(names[:-1]), names[-1]]))}"
        )
    return {**without_notes(config.get("vision_config") or config), "model_type": kind}


def without_notes(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration without what only tells where it came from."""
    return {key: value for key, value in config.items() if key not in _NOTES}


def processing_values(processor: Mapping[str, Any]) -> dict[str, Any]:
    """What of a ``preprocessor_config.json`` says how pictures are made."""
    return {key: processor[key] for key in PROCESSING if key in processor}
