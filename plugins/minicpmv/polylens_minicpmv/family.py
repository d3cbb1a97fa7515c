"""The model families of the plugin, as data."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from polylens.contracts import CheckpointLayout, ModelFamily
from polylens_minicpmv.options import MiniCPMV25Options, MiniCPMVOptions, NativeOptions
from polylens_minicpmv.versions import is_version

PRESETS = Path(__file__).parent / "presets"
COMPONENTS = {
    "vision": ("vpm",),
    "connector": ("resampler",),
    "llm": ("llm",),
    "embed_tokens": ("llm.model.embed_tokens",),
}
LLM_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
RESAMPLER_TARGETS = ("kv_proj", "out_proj")


def _family(
    version: str, description: str, published: str, presets: dict[str, Path], vision: tuple[str, ...], options: type
) -> ModelFamily:
    return ModelFamily(
        name=f"minicpmv-{version}",
        description=description,
        recognises=partial(is_version, version),
        components=COMPONENTS,
        lora_targets={"vision": vision, "connector": RESAMPLER_TARGETS, "llm": LLM_TARGETS},
        presets=presets,
        layouts=(CheckpointLayout("hub", f"names of {published}: llm.*, vpm.*, resampler.*"),),
        options=options,
        defaults={"pooling": "wmean"},
        beside_adapter=("vpm_resampler_embedtokens.pt",),
    )


NAVIT_TARGETS = ("q_proj", "k_proj", "v_proj", "self_attn.out_proj", "fc1", "fc2")

MINICPMV_2_0 = _family(
    "2.0",
    "MiniCPM-V 2.0: SigLIP-400M, a resampler to 64 tokens a slice, MiniCPM-2.4B",
    "openbmb/MiniCPM-V-2",
    {"tiny": PRESETS / "tiny"},
    ("qkv", "proj", "fc1", "fc2"),
    MiniCPMVOptions,
)
MINICPMV_2_5 = _family(
    "2.5",
    "MiniCPM-Llama3-V 2.5: SigLIP-400M, a resampler to 96 tokens a slice, Llama 3 8B",
    "openbmb/MiniCPM-Llama3-V-2_5",
    {"tiny": PRESETS / "tiny-2.5", "tiny-2.5": PRESETS / "tiny-2.5"},
    NAVIT_TARGETS,
    MiniCPMV25Options,
)
MINICPMV_2_6 = _family(
    "2.6",
    "MiniCPM-V 2.6: SigLIP-400M, a resampler to 64 tokens a slice, Qwen2 7B",
    "openbmb/MiniCPM-V-2_6",
    {"tiny": PRESETS / "tiny-2.6", "tiny-2.6": PRESETS / "tiny-2.6"},
    NAVIT_TARGETS,
    MiniCPMVOptions,
)


def _native(version: str, description: str) -> ModelFamily:
    preset = PRESETS / f"tiny-{version}"
    return ModelFamily(
        name=f"minicpmv-{version}",
        description=description,
        recognises=partial(is_version, version),
        components={
            "vision": ("model.vision_tower",),
            "connector": ("model.merger",),
            "llm": ("model.language_model", "lm_head"),
            "embed_tokens": ("model.language_model.embed_tokens",),
        },
        lora_targets={
            "vision": NAVIT_TARGETS,
            "connector": ("linear_1", "linear_2"),
            "llm": (*LLM_TARGETS, "in_proj_qkv", "in_proj_z", "linear_attn.out_proj"),
        },
        presets={"tiny": preset, f"tiny-{version}": preset},
        layouts=(CheckpointLayout("hub", "names of transformers' modules, as published"),),
        options=NativeOptions,
        defaults={"pooling": "wmean"},
    )


MINICPMV_4_6 = _native("4.6", "MiniCPM-V 4.6: SigLIP-400M, mergers to a token for 16 patches, Qwen3.5")
MINICPMV_4_7 = _native("4.7", "MiniCPM-V 4.7: as 4.6, with rotary positions on a canvas")

FAMILIES = (MINICPMV_2_0, MINICPMV_2_5, MINICPMV_2_6, MINICPMV_4_6, MINICPMV_4_7)
"""The first one is what a bare ``tiny`` stands for."""


def version_of(family: ModelFamily) -> str:
    """The number of the version, such as ``2.0``."""
    return family.name.removeprefix("minicpmv-")
