"""The model families of the plugin, as data."""

from __future__ import annotations

from pathlib import Path

from polylens.contracts import CheckpointLayout, ModelFamily
from polylens_minicpmv.options import MiniCPMVOptions
from polylens_minicpmv.versions import is_supported

MINICPMV_2_0 = ModelFamily(
    name="minicpmv-2.0",
    description="MiniCPM-V 2.0: SigLIP-400M, a resampler to 64 tokens a slice, MiniCPM-2.4B",
    recognises=is_supported,
    components={
        "vision": ("vpm",),
        "connector": ("resampler",),
        "llm": ("llm",),
        "embed_tokens": ("llm.model.embed_tokens",),
    },
    lora_targets={
        "vision": ("qkv", "proj", "fc1", "fc2"),
        "connector": ("kv_proj", "out_proj"),
        "llm": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
    },
    presets={"tiny": Path(__file__).parent / "presets" / "tiny"},
    layouts=(CheckpointLayout("hub", "names of openbmb/MiniCPM-V-2: llm.*, vpm.*, resampler.*"),),
    options=MiniCPMVOptions,
    defaults={"pooling": "wmean"},
    beside_adapter=("vpm_resampler_embedtokens.pt",),
)

FAMILIES = (MINICPMV_2_0,)
