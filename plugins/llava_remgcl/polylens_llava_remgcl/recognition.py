"""Which ``config.json`` is one of LLaVA, and of which layout; imports nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

LANGUAGE_MODELS = {
    "llava": "llama",
    "llava_llama": "llama",
    "llava_mistral": "mistral",
    "llava_qwen": "qwen2",
}
"""``model_type`` of the original layout, and that of the language model in it."""

CLASSES = {"llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM", "qwen2": "Qwen2ForCausalLM"}
"""``model_type`` of a language model, and what ``architectures`` calls it, by which vLLM finds it."""


def is_original(config: Mapping[str, Any]) -> bool:
    """Whether the fields of the original are there.

    ``model_type`` alone does not tell: transformers reads such a file as its own ``llava``, with default sizes.
    """
    named = "mm_vision_tower" in config or "mm_projector_type" in config or "mm_hidden_size" in config
    return config.get("model_type") in LANGUAGE_MODELS and named and "text_config" not in config


def is_transformers(config: Mapping[str, Any]) -> bool:
    """Whether it is the file of transformers' LLaVA, which holds the configurations of its parts."""
    return config.get("model_type") == "llava" and isinstance(config.get("text_config"), Mapping)
