"""LLaVA over transformers' classes: the language model, CLIP, and a projector between them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import initialization as init

from polylens.contracts import Batch
from polylens.errors import InputError
from polylens.modeling.connectors import build_connector
from polylens.modeling.parts_model import PartsModel, TransformersPartsModel
from polylens.modeling.towers import TransformersTower
from polylens.modeling.vision import Stage, in_chunks
from polylens_llava_remgcl.anyres import anyres_of
from polylens_llava_remgcl.collate import SIZES
from polylens_llava_remgcl.configuration import OriginalConfig, TransformersConfig, read_config

PROJECTORS = ("identity", "linear", "mlp1x_gelu to mlp99x_gelu")


class LineEnd(nn.Module):
    """The token at the end of each line of a picture; nothing unless tokens are merged so.

    Args:
        width: of the language model; ``None`` makes none.
    """

    def __init__(self, width: int | None) -> None:
        super().__init__()
        self.values = None if width is None else nn.Parameter(torch.zeros(width))

    def forward(self) -> Tensor | None:
        """[1, D]."""
        return None if self.values is None else self.values[None] * 1  # still there when ZeRO-3 has parted it again


class LlavaLlamaForCausalLM(PartsModel):
    """``language_model.*``, ``vision_tower.vision_model.*``, ``mm_projector.*``; named otherwise on disk."""

    config: OriginalConfig
    config_class = OriginalConfig

    def __init__(self, config: OriginalConfig) -> None:
        super().__init__(config)
        self.vision_tower = TransformersTower(config)
        text: Any = self.language_model.config
        self.mm_projector = projector_for(config.mm_projector_type, self.vision_tower.width, text.hidden_size)
        self.image_newline = LineEnd(text.hidden_size if "unpad" in config.mm_patch_merge_type else None)
        self.finish()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, LineEnd) and module.values is not None:
            init.normal_(module.values, std=module.values.shape[0] ** -0.5)

    @property
    def tower(self) -> nn.Module:
        return self.vision_tower

    @property
    def projector(self) -> nn.Module:
        return self.mm_projector

    @property
    def feature_size(self) -> int:
        return self.vision_tower.width

    def _visual_tokens(self, batch: Batch, items: Sequence[Any], stages: Sequence[Stage]) -> Tensor:
        """[V, D]; those of a picture are put into the order that ``mm_patch_merge_type`` says."""
        if self.config.mm_patch_merge_type == "flat":
            return super()._visual_tokens(batch, items, stages)
        made = in_chunks(items, stages, self.vision_chunk_size)
        end = self.image_newline()
        if not made:
            return super()._visual_tokens(batch, items, ())
        ends = [] if end is None else [end]
        tokens = [torch.cat([*crops, *ends])[order] for crops, order in self._pictures(batch, made)]
        return torch.cat([*tokens, *(part[:0] for part in (*made, *ends))])

    def _pictures(self, batch: Batch, made: Sequence[Tensor]) -> Iterator[tuple[Sequence[Tensor], Tensor]]:
        """The crops of each picture, and the order of their tokens."""
        sizes, at = batch.rows.get(SIZES), 0
        if sizes is None or not sizes.any():
            for crop, count in zip(made, batch.crop_tokens.tolist(), strict=False):
                yield [crop], torch.arange(count, device=crop.device)
            return
        grid = math.isqrt(len(made[0]))
        cut = anyres_of(self.config.to_dict(), self.side, grid)
        for width, height in sizes.flatten(0, 1).tolist():
            if width:
                tiling = cut.tiling((width, height))
                order = torch.from_numpy(tiling.order()).to(made[0].device)
                yield made[at : at + tiling.crops], order
                at += tiling.crops


class LlavaForConditionalGeneration(TransformersPartsModel):
    """LLaVA in the layout of transformers."""

    config: TransformersConfig
    config_class = TransformersConfig


def projector_for(name: str, vision: int, hidden: int) -> nn.Module:
    """The projector that ``mm_projector_type`` names.

    Raises:
        InputError: there is none of that name.
    """
    found = build_connector(name, vision, hidden)
    if found is None:
        raise InputError(f"config.json: /mm_projector_type is {name!r}; it may be {', '.join(PROJECTORS)}")
    return found


def build(config: Mapping[str, Any]) -> PartsModel:
    """The model, without weights, for the content of ``config.json``."""
    read = read_config(config)
    if isinstance(read, TransformersConfig):
        return LlavaForConditionalGeneration(read)
    return LlavaLlamaForCausalLM(read)
