"""``config.json`` of a new model, out of those of its parts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from polylens.composition import PartFiles
from polylens.modeling.composing import processing_values, tower_config, without_notes

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


def compose_config(parts: Mapping[str, PartFiles], connector: str) -> dict[str, Any]:
    """The file of a model of these parts. All patches of a SigLIP are kept; a class token is dropped.

    Raises:
        InputError: a part is no vision tower.
    """
    text, vision = without_notes(parts["llm"].config), tower_config(parts["vision"].config)
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
    processor = processing_values(parts["vision"].processor)
    if processor:
        made["image_processor"] = processor
    if "second_vision" in parts:
        made["vision_config2"] = tower_config(parts["second_vision"].config)
    return made
