"""``config.json`` of a new model, out of those of its parts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from polylens.composition import PartFiles
from polylens.errors import InputError

TOWERS = {
    "siglip": "siglip_vision_model",
    "siglip_vision_model": "siglip_vision_model",
    "clip": "clip_vision_model",
    "clip_vision_model": "clip_vision_model",
    "dinov2": "dinov2",
}
"""Types of models that hold a tower, and the tower's own type."""

PARTS = {
    "llm": ("language_model.",),
    "vision": (
        "vision_tower._vision_tower.",
        "vision_tower._vision_tower.vision_model.",
        "vision_tower._vision_tower.clip.",
        "vision_tower._vision_tower.clip.vision_model.",
    ),
    "second_vision": ("vision_tower._vision_tower.dinov2.",),
}
"""Names of weights in a part's own files follow these; some towers are saved with their level ``vision_model``, some
without it."""

CONNECTORS = ("identity", "linear", "mlp2x_gelu", "resampler", "qformer", "mof_mlp")
PROCESSING = ("size", "crop_size", "image_mean", "image_std")
NOTES = ("_name_or_path", "transformers_version", "architectures")


def compose_config(parts: Mapping[str, PartFiles], connector: str) -> dict[str, Any]:
    """The file of a model of these parts. All patches of a SigLIP are kept; a class token is dropped.

    Raises:
        InputError: a part is no vision tower.
    """
    text, vision = _without_notes(parts["llm"].config), tower_config(parts["vision"].config)
    made = {
        "architectures": ["TinyLlavaForConditionalGeneration"],
        "model_type": "tinyllava",
        "connector_type": connector,
        "hidden_size": text.get("hidden_size"),
        "vocab_size": text.get("vocab_size"),
        "image_aspect_ratio": "square",
        "image_token_index": -200,
        "ignore_index": -100,
        "tokenizer_padding_side": "right",
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "cls_patch" if vision["model_type"] == "siglip_vision_model" else "patch",
        "vision_hidden_size": vision.get("hidden_size"),
        "text_config": text,
        "vision_config": vision,
    }
    processor = {key: parts["vision"].processor[key] for key in PROCESSING if key in parts["vision"].processor}
    if processor:
        made["image_processor"] = processor
    if "second_vision" in parts:
        made["vision_config2"] = tower_config(parts["second_vision"].config)
    return made


def tower_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a tower, which may be a part of that of a model of pictures and texts.

    Raises:
        InputError: there is no tower of a type that can be used.
    """
    kind = TOWERS.get(str(config.get("model_type")))
    if kind is None:
        raise InputError(
            f"a model of type {config.get('model_type')!r} is no vision tower that can be used: SigLIP, CLIP or DINOv2"
        )
    return {**_without_notes(config.get("vision_config") or config), "model_type": kind}


def _without_notes(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in NOTES}
