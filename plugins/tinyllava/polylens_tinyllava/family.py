"""The model families of the plugin, as data."""

from __future__ import annotations

from pathlib import Path

from polylens.composition import Composition
from polylens.contracts import ALL_LINEAR, CheckpointLayout, ModelFamily
from polylens.modeling.layouts import TRANSFORMERS_RENAMES
from polylens_tinyllava.composition import CONNECTORS, PARTS, compose_config
from polylens_tinyllava.options import TinyLlavaOptions

FOLDERS = {
    "language_model": "language_model.",
    "vision_tower": "vision_tower._vision_tower.",
    "connector": "connector.",
}
PRESETS = Path(__file__).parent / "presets"

TARGETS = {"vision": (ALL_LINEAR,), "connector": (ALL_LINEAR,), "llm": (ALL_LINEAR,)}


def _components(connector: str) -> dict[str, tuple[str, ...]]:
    return {
        "vision": ("vision_tower",),
        "connector": (connector,),
        "llm": ("language_model",),
        "embed_tokens": ("language_model.model.embed_tokens",),
    }


TINYLLAVA = ModelFamily(
    name="tinyllava",
    description="TinyLLaVA: SigLIP, CLIP, DINOv2 or a mixture; any connector; any causal language model",
    recognises=lambda config: config.get("model_type") == "tinyllava",
    components=_components("connector"),
    lora_targets=TARGETS,
    presets={"tiny": PRESETS / "tiny", "tiny-phi": PRESETS / "tiny-phi"},
    layouts=(
        CheckpointLayout("hub", "language_model.*, vision_tower._vision_tower.*, connector._connector.*"),
        CheckpointLayout("folders", "what training of the original writes, also beside an adapter", parts=FOLDERS),
    ),
    options=TinyLlavaOptions,
    composition=Composition(PARTS, CONNECTORS, compose_config),
)

TINYLLAVA_HF = ModelFamily(
    name="tinyllava-hf",
    description="TinyLLaVA as transformers' LLaVA: bczhou/tiny-llava-v1-hf",
    recognises=lambda config: config.get("model_type") == "llava",
    components=_components("multi_modal_projector"),
    lora_targets=TARGETS,
    presets={"tiny": PRESETS / "tiny-hf", "tiny-hf": PRESETS / "tiny-hf"},
    layouts=(
        CheckpointLayout("hub", "language_model.*, vision_tower.vision_model.*, multi_modal_projector.*"),
        CheckpointLayout(
            "transformers",
            "names of transformers' modules",
            TRANSFORMERS_RENAMES,
        ),
    ),
    options=TinyLlavaOptions,
)

FAMILIES = (TINYLLAVA, TINYLLAVA_HF)
"""The first one is what a bare ``tiny`` stands for."""
