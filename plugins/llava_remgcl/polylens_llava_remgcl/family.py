"""The model families of the plugin, as data."""

from __future__ import annotations

from pathlib import Path

from polylens.composition import Composition
from polylens.contracts import ALL_LINEAR, CheckpointLayout, ModelFamily
from polylens.modeling.layouts import TRANSFORMERS_RENAMES
from polylens_llava_remgcl.composition import CONNECTORS, PARTS, borrowed_parts, compose_config
from polylens_llava_remgcl.exports import TO_ORIGINAL, TO_TRANSFORMERS
from polylens_llava_remgcl.options import LlavaOptions
from polylens_llava_remgcl.recognition import is_original, is_transformers

PRESETS = Path(__file__).parent / "presets"
TARGETS = {"vision": (ALL_LINEAR,), "connector": (ALL_LINEAR,), "llm": (ALL_LINEAR,)}
ORIGINAL_RENAMES = {
    r"^model\.vision_tower\.vision_tower\.": "vision_tower.",
    r"^model\.mm_projector\.": "mm_projector.",
    r"^model\.image_newline": "image_newline.values",
    r"^model\.embed_tokens\.": "language_model.model.embed_tokens.",
    r"^model\.layers\.": "language_model.model.layers.",
    r"^model\.norm\.": "language_model.model.norm.",
    r"^lm_head\.": "language_model.lm_head.",
}
"""Names of the original's files -> those of the modules."""


def _components(*connector: str) -> dict[str, tuple[str, ...]]:
    return {
        "vision": ("vision_tower",),
        "connector": connector,
        "llm": ("language_model",),
        "embed_tokens": ("language_model.model.embed_tokens",),
    }


LLAVA = ModelFamily(
    name="llava",
    description="LLaVA 1.5 and 1.6, LLaVAR, REMGCL in the original layout: CLIP, a projector, Vicuna or another Llama",
    recognises=is_original,
    components=_components("mm_projector", "image_newline"),
    lora_targets=TARGETS,
    presets={"tiny": PRESETS / "tiny"},
    layouts=(
        CheckpointLayout("original", "model.layers.*, model.mm_projector.*, model.vision_tower.*", ORIGINAL_RENAMES),
    ),
    options=LlavaOptions,
    beside_adapter=("non_lora_trainables.bin",),
    composition=Composition(PARTS, CONNECTORS, compose_config),
    borrows=borrowed_parts,
    exports={"llava-hf": TO_TRANSFORMERS},
)

LLAVA_HF = ModelFamily(
    name="llava-hf",
    description="LLaVA 1.5 in the layout of transformers: llava-hf/llava-1.5-7b-hf",
    recognises=is_transformers,
    components=_components("multi_modal_projector"),
    lora_targets=TARGETS,
    presets={"tiny": PRESETS / "tiny-hf", "tiny-hf": PRESETS / "tiny-hf"},
    layouts=(
        CheckpointLayout("hub", "language_model.*, vision_tower.vision_model.*, multi_modal_projector.*"),
        CheckpointLayout("transformers", "names of transformers' modules", TRANSFORMERS_RENAMES),
    ),
    options=LlavaOptions,
    exports={"llava": TO_ORIGINAL},
)

FAMILIES = (LLAVA, LLAVA_HF)
"""The first one is what a bare ``tiny`` stands for."""
