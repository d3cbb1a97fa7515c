"""``config.json`` of a new model, out of those of its parts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from polylens.composition import Borrowed, PartFiles
from polylens.errors import InputError
from polylens.modeling.composing import processing_values, tower_config, without_notes
from polylens_llava_remgcl.recognition import LANGUAGE_MODELS
from polylens_llava_remgcl.towers import published_tower

PARTS = {
    "llm": ("language_model.",),
    "vision": ("vision_tower.", "vision_tower.vision_model."),
}
"""Names of weights in a part's own files follow these; some towers are saved with their level ``vision_model``, some
without it."""

PROJECTOR_FILES = ("mm_projector.bin", "non_lora_trainables.bin")
"""Where the original's first stage, and its training of adapters, leave the projector."""

CONNECTORS = ("identity", "linear", "mlp2x_gelu")
KINDS = {text: name for name, text in LANGUAGE_MODELS.items() if name != "llava"}
CLASSES = {
    "llava_llama": "LlavaLlamaForCausalLM",
    "llava_mistral": "LlavaMistralForCausalLM",
    "llava_qwen": "LlavaQwenForCausalLM",
}


def compose_config(parts: Mapping[str, PartFiles], connector: str) -> dict[str, Any]:
    """The file of a model of these parts, as the original's first stage writes it.

    Raises:
        InputError: a part is none that this family can have.
    """
    text, vision = without_notes(parts["llm"].config), tower_config(parts["vision"].config, ("clip_vision_model",))
    kind = KINDS.get(str(text.get("model_type")))
    if kind is None:
        raise InputError(
            f"a model of type {text.get('model_type')!r} cannot be the language model of a LLaVA: {', '.join(KINDS)} "
            "can; the plugin tinyllava takes any"
        )
    processor = processing_values(parts["vision"].processor)
    return {
        **text,
        "architectures": [CLASSES[kind]],
        "model_type": kind,
        "image_aspect_ratio": "square",
        "mm_hidden_size": vision.get("hidden_size"),
        "mm_projector_type": connector,
        "mm_use_im_patch_token": False,
        "mm_use_im_start_end": False,
        "mm_vision_select_feature": "patch",
        "mm_vision_select_layer": -2,
        "mm_vision_tower": str(parts["vision"].config.get("_name_or_path") or ""),
        "tokenizer_padding_side": "right",
        "use_mm_proj": True,
        "vision_config": vision,
        **({"image_processor": processor} if processor else {}),
    }


def borrowed_parts(config: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Borrowed]:
    """What checkpoints of the original layout may lack: the tower, and beside a projector the language model."""
    named = options.get("vision_tower")
    tower = str(named or config.get("mm_vision_tower") or "")
    sized = "vision_config" in config or (not named and published_tower(tower) is not None)
    return {
        "vision": Borrowed(tower, "vision_tower", PARTS["vision"], described=None if sized else _described),
        "connector": Borrowed(files=PROJECTOR_FILES),
        "llm": Borrowed(str(config.get("_name_or_path") or "")),
    }


def _described(files: PartFiles) -> dict[str, Any]:
    """What ``config.json`` needs to say of its tower."""
    processor = processing_values(files.processor)
    vision = tower_config(files.config, ("clip_vision_model",))
    return {"vision_config": vision, **({"image_processor": processor} if processor else {})}
