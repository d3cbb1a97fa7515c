"""The outputs of the original program, as batches of this one."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from polylens.contracts import IGNORE_INDEX, Batch
from polylens_tinyllava.configuration import TinyLlavaConfig
from polylens_tinyllava.model import TinyLlavaForConditionalGeneration

IMAGE = -200
"""Stands for a picture in the original's token ids."""

NAMES = (
    "phi_siglip_mlp2x",
    "phi_siglip_mlp2x_pad",
    "phi_siglip_pretrain",
    "qwen2_base_siglip_mlp2x",
    "tinyllama_clip_linear",
    "tinyllama_clip_resampler",
    "tinyllama_siglip_qformer",
)


@dataclass
class Case:
    """A tiny model of the original, with what went in and what came out."""

    folder: Path

    @cached_property
    def meta(self) -> dict[str, Any]:
        return json.loads((self.folder / "meta.json").read_text(encoding="utf-8"))

    @cached_property
    def config(self) -> dict[str, Any]:
        """The original's file, with the sizes of its tiny Q-Former where this plugin looks for them."""
        config = json.loads((self.folder / "config.json").read_text(encoding="utf-8"))
        return config | ({"qformer_config": self.meta["bert_config"]} if "bert_config" in self.meta else {})

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        return load_file(self.folder / "golden.safetensors")

    @cached_property
    def model(self) -> TinyLlavaForConditionalGeneration:
        config = TinyLlavaConfig(**self.config)
        return TinyLlavaForConditionalGeneration.from_pretrained(self.folder, config=config).eval()

    def crops(self, images: Tensor) -> list[Tensor]:
        """The bytes that the original normalised; where it made a gray of 127.5 up, for a text alone, no bytes."""
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (self.model.mean, self.model.std))
        values = (images * std + mean) * 255
        return list(values.round().to(torch.uint8) if (values - values.round()).abs().max() < 0.1 else values)

    def batch(self, ids: Tensor, mask: Tensor, labels: Tensor, images: Tensor, side="right", limit=None) -> Batch:
        """Slots in the place of each picture; ``limit`` cuts rows, as the original does after the splice."""
        count, rows = self.tensors["out.projected"].shape[1], []
        for row, real in zip(torch.stack([ids, labels], dim=-1), mask.bool(), strict=True):
            rows.append(expanded(row[real], count)[:limit])
        pad = torch.tensor([0, IGNORE_INDEX, 0])
        padded = [sided(row, max(map(len, rows)), pad, side) for row in rows]
        whole = torch.stack([row for row, _ in padded])
        owners = [row for row, own in enumerate(ids) for token in own if token == IMAGE]
        crops = self.crops(images)
        return Batch(
            ids=[str(row) for row in range(len(rows))],
            input_ids=whole[..., 0],
            labels=whole[..., 1],
            visual_mask=whole[..., 2].bool(),
            attention_mask=torch.stack([mask for _, mask in padded]),
            pixels=[crops[row] for row in owners],
            crop_rows=torch.tensor(owners, dtype=torch.long),
            crop_tokens=torch.full((len(owners),), count),
            costs=torch.tensor([len(row) for row in rows]),
        )

    def training_batch(self, side: str = "right", limit: int | None = None) -> Batch:
        given = self.tensors
        names = ("in.input_ids", "in.attention_mask", "in.labels", "in.images")
        ids, mask, labels, images = (given[name] for name in names)
        return self.batch(ids, mask, labels, images, side, limit)


def expanded(row: Tensor, count: int) -> Tensor:
    """[T, 2] ids and labels to [T', 3] ids, labels and whether it is a slot."""
    slots = torch.tensor([[0, IGNORE_INDEX, 1]]).expand(count, 3)
    text = torch.nn.functional.pad(row, (0, 1))
    return torch.cat([slots if int(token[0]) == IMAGE else token[None] for token in text])


def sided(row: Tensor, length: int, pad: Tensor, side: str) -> tuple[Tensor, Tensor]:
    """The row filled up on one side, and which of it is real."""
    filler, real = pad.expand(length - len(row), 3), torch.ones(len(row), dtype=torch.bool)
    no = torch.zeros(len(filler), dtype=torch.bool)
    parts, masks = ([row, filler], [real, no]) if side == "right" else ([filler, row], [no, real])
    return torch.cat(parts), torch.cat(masks)


@pytest.fixture(scope="session")
def original(golden: Path) -> Path:
    return golden / "tinyllava"


@pytest.fixture(scope="module", params=NAMES)
def case(request: pytest.FixtureRequest, original: Path) -> Case:
    return Case(original / "cases" / request.param)


@pytest.fixture(scope="session")
def phi(original: Path) -> Case:
    return Case(original / "cases" / "phi_siglip_mlp2x")
