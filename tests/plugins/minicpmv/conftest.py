"""The preset ``tiny`` with everything the hooks give for it, and the outputs of the original program."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from polylens import plugins
from polylens.contracts import Batch, Example, ImageRef, Message
from polylens_minicpmv.family import PRESETS

BODY = "\n"


@dataclass
class Kit:
    """What the hooks of the plugin return for one configuration."""

    config: dict[str, Any]
    options: Any = None
    dtype: torch.dtype = torch.float64
    version: str = "2.0"
    hooks: Any = field(init=False)

    def __post_init__(self) -> None:
        self.hooks = plugins.load("minicpmv")
        self.family = next(f for f in self.hooks.families() if f.name == f"minicpmv-{self.version}")
        self.options = self.options or self.family.options()
        about = {"family": self.family, "config": self.config}
        self.tokenizer = self.hooks.tokenizer(family=self.family, source=self.family.presets["tiny"])
        self.slicer = self.hooks.image_slicer(**about, options=self.options)
        self.preprocessor = self.hooks.image_preprocessor(**about, options=self.options)
        self.template = self.hooks.chat_template(**about, tokenizer=self.tokenizer, options=self.options)

    def model(self, attn_implementation: str = "sdpa", seed: int = 0) -> Any:
        torch.manual_seed(seed)
        config = {**self.config, "attn_implementation": attn_implementation}
        return self.hooks.build_model(family=self.family, config=config).to(self.dtype).eval()

    def example(self, text: str, image: Image.Image | None = None) -> Example:
        parts = (text,) if image is None else (ImageRef("document", "page"), BODY + text)
        images = () if image is None else (self.slicer.slice(image.size),)
        encoding = self.template.encode([Message("user", parts)], images, style="plain")
        return Example(
            text,
            torch.tensor(encoding.input_ids),
            torch.tensor(encoding.labels),
            torch.tensor(encoding.visual_mask),
            [crop for sliced in images for crop in self.preprocessor.pixels(image, sliced)],
            [crop.tokens for sliced in images for crop in sliced.crops],
            images,
        )

    def batch(self, examples: Sequence[Example], padding_side: str = "right") -> Batch:
        collate = self.hooks.collator(family=self.family, tokenizer=self.tokenizer, padding_side=padding_side)
        return collate(examples)

    @staticmethod
    def picture(width: int, height: int, seed: int = 0) -> Image.Image:
        """Smooth noise, so that resizing has something to do."""
        small = np.random.default_rng(seed).integers(0, 256, (7, 5, 3), dtype=np.uint8)
        return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture(scope="session")
def tiny() -> Kit:
    return _preset("tiny", "2.0")


@pytest.fixture(scope="session")
def tiny25() -> Kit:
    return _preset("tiny-2.5", "2.5")


@pytest.fixture(scope="session")
def tiny26() -> Kit:
    return _preset("tiny-2.6", "2.6")


@pytest.fixture(scope="session")
def tiny46() -> Kit:
    return _preset("tiny-4.6", "4.6")


@pytest.fixture(scope="session")
def tiny47() -> Kit:
    return _preset("tiny-4.7", "4.7")


@pytest.fixture(scope="session", params=["2.5", "2.6"])
def later(request: pytest.FixtureRequest) -> Kit:
    """Versions 2.5 and 2.6, one after the other."""
    return request.getfixturevalue(f"tiny{request.param.replace('.', '')}")


def _preset(name: str, version: str) -> Kit:
    return Kit(json.loads((PRESETS / name / "config.json").read_text(encoding="utf-8")), version=version)


@pytest.fixture(scope="session")
def examples(tiny: Kit) -> list[Example]:
    """Text, a small picture, a sliced page, a wide picture, text: rows of very different lengths and crops."""
    return [
        tiny.example("how often should the filter be cleaned?"),
        tiny.example("", tiny.picture(60, 90)),
        tiny.example("a page", tiny.picture(400, 560, seed=1)),
        tiny.example("", tiny.picture(700, 60, seed=2)),
        tiny.example("保修"),
    ]


@pytest.fixture(scope="session")
def original(golden: Path) -> Path:
    """The folder of the original MiniCPM-V 2.0 with tiny random weights."""
    return golden / "minicpmv" / "minicpmv2"


@pytest.fixture(scope="session")
def original_config(original: Path) -> dict[str, Any]:
    """Its configuration, with the size of its tiny tower where this plugin looks for it."""
    config = json.loads((original / "config.json").read_text(encoding="utf-8"))
    tower = config["_golden_tiny_vit"]
    config["polylens_vision"] = {
        "image_size": tower["img_size"],
        "hidden_size": tower["embed_dim"],
        "intermediate_size": int(tower["embed_dim"] * tower["mlp_ratio"]),
        "num_attention_heads": tower["num_heads"],
        "num_hidden_layers": tower["depth"],
    }
    return config
