"""The model families of the plugin, as data."""

from __future__ import annotations

from pathlib import Path

from polylens.contracts import ALL_LINEAR, CheckpointLayout, ModelFamily
from polylens_tinyllava.options import TinyLlavaOptions

FOLDERS = {
    "language_model": "language_model.",
    "vision_tower": "vision_tower._vision_tower.",
    "connector": "connector.",
}
PRESETS = Path(__file__).parent / "presets"

TINYLLAVA = ModelFamily(
    name="tinyllava",
    description="TinyLLaVA: SigLIP, CLIP, DINOv2 or a mixture; any connector; any causal language model",
    recognises=lambda config: config.get("model_type") == "tinyllava",
    components={
        "vision": ("vision_tower",),
        "connector": ("connector",),
        "llm": ("language_model",),
        "embed_tokens": ("language_model.model.embed_tokens",),
    },
    lora_targets={"vision": (ALL_LINEAR,), "connector": (ALL_LINEAR,), "llm": (ALL_LINEAR,)},
    presets={"tiny": PRESETS / "tiny"},
    layouts=(
        CheckpointLayout("hub", "language_model.*, vision_tower._vision_tower.*, connector._connector.*"),
        CheckpointLayout("folders", "what training of the original writes, also beside an adapter", parts=FOLDERS),
    ),
    options=TinyLlavaOptions,
)

FAMILIES = (TINYLLAVA,)
