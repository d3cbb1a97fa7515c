"""Qwen2.5-VL (Bai et al. 2025, arXiv 2502.13923) for polylens, around transformers' own classes.

torch and transformers are imported inside the hooks, so that ``polylens plugins list`` stays fast.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polylens import hookimpl
from polylens.contracts import CheckpointLayout, ModelFamily

PATCH = 14
MERGE = 2
FRAMES = 2
"""Sizes of the vision tower, the same in all published checkpoints: pixels of a patch, patches of a token along each
side, frames that are seen together."""

FACTOR = PATCH * MERGE
"""Side of the square that becomes one visual token, in pixels of the resized picture."""


@dataclass(frozen=True)
class Options:
    """Limits of a picture's size after resizing.

    Attributes:
        min_pixels: smaller pictures are enlarged; 784 pixels are one visual token.
        max_pixels: larger pictures are reduced, to at most 1280 visual tokens by default.
    """

    min_pixels: int = 4 * FACTOR * FACTOR
    max_pixels: int = 1280 * FACTOR * FACTOR

    def __post_init__(self) -> None:
        if not FACTOR * FACTOR <= self.min_pixels <= self.max_pixels:
            raise ValueError(
                f"min_pixels is {self.min_pixels} and max_pixels is {self.max_pixels}; "
                f"needed: {FACTOR * FACTOR} <= min_pixels <= max_pixels"
            )


FAMILY = ModelFamily(
    name="qwen2.5-vl",
    description="Qwen2.5-VL: native resolution, windowed vision attention, multimodal rotary positions",
    recognises=lambda config: config.get("model_type") == "qwen2_5_vl",
    components={
        "vision": ("model.visual",),
        "connector": ("model.visual.merger",),
        "llm": ("model.language_model", "lm_head"),
        "embed_tokens": ("model.language_model.embed_tokens",),
    },
    lora_targets={
        "vision": ("qkv", "attn.proj", "gate_proj", "up_proj", "down_proj"),
        "connector": ("mlp.0", "mlp.2"),
        "llm": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
    },
    presets={"tiny": Path(__file__).parent / "presets" / "tiny"},
    layouts=(
        CheckpointLayout(
            "hub",
            "names of the published checkpoints",
            {r"^visual": "model.visual", r"^model(?!\.(language_model|visual))": "model.language_model"},
        ),
        CheckpointLayout("transformers", "names of transformers' modules"),
    ),
    options=Options,
)


@hookimpl
def families() -> list[ModelFamily]:
    return [FAMILY]


@hookimpl
def build_model(config: Mapping[str, Any]) -> Any:
    from transformers import Qwen2_5_VLConfig

    from polylens_qwen2_5_vl.modeling import Qwen2_5_VLForConditionalGeneration

    return Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig.from_dict(dict(config)))


@hookimpl
def tokenizer(source: Path) -> Any:
    from polylens_qwen2_5_vl.tokenizer import read_tokenizer

    return read_tokenizer(source)


@hookimpl
def image_slicer(options: Options) -> Any:
    from polylens_qwen2_5_vl.slicing import NativeResolutionSlicer

    return NativeResolutionSlicer(options.min_pixels, options.max_pixels)


@hookimpl
def image_preprocessor() -> Any:
    from polylens.modeling.preprocessing import BicubicPreprocessor
    from polylens_qwen2_5_vl.modeling import MEAN, STD

    return BicubicPreprocessor(MEAN, STD)


@hookimpl
def chat_template(tokenizer: Any) -> Any:
    from polylens_qwen2_5_vl.template import ChatML

    return ChatML(tokenizer)
