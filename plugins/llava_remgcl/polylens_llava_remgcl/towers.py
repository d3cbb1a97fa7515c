"""Published vision towers of LLaVA by their names: ``config.json`` names one, and holds no sizes of it."""

from __future__ import annotations

from typing import Any

_LARGE = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "patch_size": 14,
    "projection_dim": 768,
}
_BASE = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "projection_dim": 512,
}
PUBLISHED: dict[str, dict[str, Any]] = {
    "clip-vit-large-patch14": {**_LARGE, "image_size": 224},
    "clip-vit-large-patch14-336": {**_LARGE, "image_size": 336},
    "clip-vit-base-patch16": {**_BASE, "image_size": 224, "patch_size": 16},
    "clip-vit-base-patch32": {**_BASE, "image_size": 224, "patch_size": 32},
}


def published_tower(named: object) -> dict[str, Any] | None:
    """Sizes of ``openai/NAME``, also where a path ends in that name; ``None`` for any other tower.

    >>> published_tower("/data/openai/clip-vit-large-patch14-336/")["image_size"]
    336
    """
    sizes = PUBLISHED.get(str(named or "").rstrip("/").rpartition("/")[2])
    return None if sizes is None else {**sizes, "model_type": "clip_vision_model", "hidden_act": "quick_gelu"}
