"""From the original layout to that of transformers, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from polylens.composition import Export
from polylens.errors import InputError
from polylens_llava_remgcl.recognition import CLASSES, LANGUAGE_MODELS

IMAGE, PAD = "<image>", "<pad>"
FURTHER_ROWS = 64
"""Rows that published files of transformers' layout have beyond the vocabulary, the first two for these tokens."""

TWO_LAYERS = "mlp2x_gelu"


def to_transformers(config: Mapping[str, Any], tokens: int) -> dict[str, Any]:
    """``config.json`` of transformers' LLaVA.

    Raises:
        InputError: transformers has no such model.
    """
    from polylens_llava_remgcl.configuration import OriginalConfig

    read = OriginalConfig(**config)
    if read.mm_projector_type != TWO_LAYERS:
        raise InputError(
            f"config.json: /mm_projector_type is {read.mm_projector_type!r}, and transformers' LLaVA always has "
            f"{TWO_LAYERS}"
        )
    if read.image_aspect_ratio == "anyres" or read.mm_patch_merge_type != "flat":
        raise InputError(
            f"config.json: /image_aspect_ratio is {read.image_aspect_ratio!r}, /mm_patch_merge_type is "
            f"{read.mm_patch_merge_type!r}: transformers has these in another model, which this plugin does not write"
        )
    vision: Any = read.vision()
    text, rows = read.text_values(), int(config["vocab_size"])
    text["vocab_size"] = rows if tokens + 2 <= rows else rows + FURTHER_ROWS
    kind = LANGUAGE_MODELS[config["model_type"]]
    text |= {"architectures": [CLASSES[kind]], "model_type": kind, "pad_token_id": tokens + 1}
    whole = read.mm_vision_select_feature == "cls_patch"
    kept = {key: config[key] for key in _KEPT if key in config}
    return {
        "architectures": ["LlavaForConditionalGeneration"],
        "model_type": "llava",
        "ignore_index": -100,
        "image_seq_length": (vision.image_size // vision.patch_size) ** 2 + whole,
        "image_token_index": tokens,
        "multimodal_projector_bias": True,
        "pad_token_id": tokens + 1,
        "projector_hidden_act": "gelu",
        "text_config": text,
        "tie_word_embeddings": bool(text.get("tie_word_embeddings", False)),
        "vision_config": read.vision_values(),
        "vision_feature_layer": read.mm_vision_select_layer,
        "vision_feature_select_strategy": "full" if whole else "default",
        **kept,
    }


_KEPT = ("image_aspect_ratio", "image_processor", "mm_use_im_start_end", "torch_dtype", "dtype")


def to_original(config: Mapping[str, Any], tokens: int) -> dict[str, Any]:
    """``config.json`` of the original layout; the vocabulary ends where the picture's token is.

    Raises:
        InputError: the original has no such model.
    """
    kinds = {text: name for name, text in LANGUAGE_MODELS.items() if name != "llava"}
    text = {"model_type": "llama", **config["text_config"]}
    if text["model_type"] not in kinds or config.get("projector_hidden_act", "gelu") != "gelu":
        raise InputError(
            f"config.json: a model of {text['model_type']!r} and {config.get('projector_hidden_act')!r} has no place "
            "in the original layout"
        )
    vision = {"model_type": "clip_vision_model", **config["vision_config"]}
    kind = kinds[text.pop("model_type")]
    return {
        **text,
        "architectures": [{"llava_llama": "LlavaLlamaForCausalLM"}.get(kind, f"Llava{kind[6:].title()}ForCausalLM")],
        "model_type": kind,
        "vocab_size": min(int(config.get("image_token_index") or tokens), tokens),
        "pad_token_id": 0,
        "image_aspect_ratio": "pad",
        "mm_hidden_size": vision.get("hidden_size"),
        "mm_projector_type": TWO_LAYERS,
        "mm_use_im_patch_token": False,
        "mm_use_im_start_end": False,
        "mm_vision_select_feature": "cls_patch" if config.get("vision_feature_select_strategy") == "full" else "patch",
        "mm_vision_select_layer": config.get("vision_feature_layer", -2),
        "mm_vision_tower": "",
        "tokenizer_padding_side": "right",
        "use_mm_proj": True,
        "vision_config": vision,
        **{key: config[key] for key in _KEPT if key in config},
    }


def write_processor(folder: Path, tokenizer: Any, config: Mapping[str, Any]) -> None:
    """The tokenizer with the tokens that transformers' LLaVA needs, and the files of its processor."""
    from polylens.modeling.processing import processing_of_file, processing_of_tower
    from polylens_llava_remgcl.configuration import TransformersConfig

    for token in ({"additional_special_tokens": [IMAGE]}, {"pad_token": PAD}):  # the picture's comes first
        tokenizer.add_special_tokens(token)
    found = tokenizer.convert_tokens_to_ids([IMAGE, PAD])
    if found != [config["image_token_index"], config["pad_token_id"]]:
        raise InputError(f"the tokenizer has {IMAGE} or {PAD} already, as {found}: it is no tokenizer of this layout")
    tokenizer.save_pretrained(folder)
    own, vision = config.get("image_processor"), TransformersConfig(**config).vision()
    side, shortest, mean, std = processing_of_file(own) if own else processing_of_tower(vision)
    picture = {
        "image_processor_type": "CLIPImageProcessor",
        "processor_class": "LlavaProcessor",
        "do_resize": True,
        "size": {"shortest_edge": shortest},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": side, "width": side},
        "do_rescale": True,
        "do_normalize": True,
        "do_convert_rgb": True,
        "image_mean": list(mean),
        "image_std": list(std),
    }
    processor = {
        "processor_class": "LlavaProcessor",
        "image_token": IMAGE,
        "num_additional_image_tokens": 1,
        "patch_size": vision.patch_size,  # type: ignore[attr-defined]
        "vision_feature_select_strategy": config["vision_feature_select_strategy"],
    }
    for name, values in (("preprocessor_config.json", picture), ("processor_config.json", processor)):
        (folder / name).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def write_nothing(folder: Path, tokenizer: Any, config: Mapping[str, Any]) -> None:
    """The tokenizer keeps its further tokens, which nothing writes any more."""


TO_TRANSFORMERS = Export(
    {
        r"^mm_projector\.0\.": "multi_modal_projector.linear_1.",
        r"^mm_projector\.2\.": "multi_modal_projector.linear_2.",
    },
    to_transformers,
    write_processor,
)
TO_ORIGINAL = Export(
    {
        r"^multi_modal_projector\.linear_1\.": "mm_projector.0.",
        r"^multi_modal_projector\.linear_2\.": "mm_projector.2.",
    },
    to_original,
    write_nothing,
    cuts=True,
)
