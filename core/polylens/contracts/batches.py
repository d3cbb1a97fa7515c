"""Records after preprocessing, one by one and in batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from polylens.contracts.images import SlicedImage
from polylens.contracts.regions import Regions

if TYPE_CHECKING:
    from torch import Tensor

ROLES = ("query", "document")
"""What a row of a retrieval batch is; ``Batch.rows["role"]`` holds the index, -1 for a row that stands for nothing."""


@dataclass(slots=True)
class Example:
    """A record after preprocessing.

    Attributes:
        id: of the record.
        input_ids: int64 [T].
        labels: int64 [T], not shifted, -100 where nothing is supervised.
        visual_mask: bool [T].
        pixels: uint8 [3, H, W] per crop.
        crop_tokens: visual tokens of each crop; they sum to ``visual_mask.sum()``.
        images: how each picture was cut.
        rows: further values of the row (numbers or tensors), stacked by the collator into ``Batch.rows``.
        regions: what its visual tokens show, if the objective asks for it (``Objective.cover``).
    """

    id: str
    input_ids: Tensor
    labels: Tensor
    visual_mask: Tensor
    pixels: list[Tensor]
    crop_tokens: list[int]
    images: tuple[SlicedImage, ...] = ()
    rows: dict[str, Any] = field(default_factory=dict)
    regions: Regions | None = None

    @property
    def cost(self) -> int:
        """Visual and text tokens."""
        return len(self.input_ids)


@dataclass(slots=True)
class Batch:
    """Collated examples, of which any subset of rows can be taken.

    Attributes:
        ids: record id of each row.
        input_ids: int64 [B, T].
        attention_mask: bool [B, T], false on padding.
        labels: int64 [B, T], not shifted.
        visual_mask: bool [B, T]: where visual tokens replace embeddings, in the order of the crops.
        pixels: uint8 [3, H, W] per crop, crops of the first row first.
        crop_rows: int64 [N], the row of each crop, ascending.
        crop_tokens: int64 [N], visual tokens of each crop.
        costs: int64 [B], visual and text tokens of each row.
        features: what the vision tower made of each crop ([L_i, D] each), in place of ``pixels``.
        rows: further tensors with one entry a row.
        crop_sizes: int64 [N, 2], height and width of each crop in pixels: with ``features``, all that is left of the
            shape of a crop.
        regions: what visual tokens show, if the objective asks for it.
    """

    ids: list[str]
    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor
    visual_mask: Tensor
    pixels: list[Tensor]
    crop_rows: Tensor
    crop_tokens: Tensor
    costs: Tensor
    features: list[Tensor] | None = None
    rows: dict[str, Tensor] = field(default_factory=dict)
    crop_sizes: Tensor | None = None
    regions: Regions | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def pixel_bytes(self) -> int:
        """Host or device memory of the pixels."""
        return sum(crop.numel() * crop.element_size() for crop in self.pixels)

    def take(self, rows: Sequence[int]) -> Batch:
        """The given rows, in the given order, without the columns that are padding in all of them."""
        import torch

        index = torch.as_tensor(rows, dtype=torch.long, device=self.input_ids.device)
        columns = self.attention_mask[index].any(dim=0)
        crops = [i for row in rows for i in (self.crop_rows == row).nonzero().flatten().tolist()]
        owners = [i for i, row in enumerate(rows) for _ in range(int((self.crop_rows == row).sum()))]
        chosen = torch.tensor(crops, dtype=torch.long, device=index.device)
        return Batch(
            ids=[self.ids[row] for row in rows],
            input_ids=self.input_ids[index][:, columns],
            attention_mask=self.attention_mask[index][:, columns],
            labels=self.labels[index][:, columns],
            visual_mask=self.visual_mask[index][:, columns],
            pixels=[self.pixels[i] for i in crops] if self.features is None else [],
            crop_rows=torch.tensor(owners, dtype=torch.long, device=index.device),
            crop_tokens=self.crop_tokens[chosen],
            costs=self.costs[index],
            features=None if self.features is None else [self.features[i] for i in crops],
            rows={name: value[index] for name, value in self.rows.items()},
            crop_sizes=None if self.crop_sizes is None else self.crop_sizes[chosen],
            regions=None if self.regions is None else self.regions.take(rows),
        )

    def to(self, device: Any, *, non_blocking: bool = False) -> Batch:
        """The same batch on another device; integer and boolean tensors keep their type."""

        def move(value: Tensor) -> Tensor:
            return value.to(device, non_blocking=non_blocking)

        return replace(
            self,
            input_ids=move(self.input_ids),
            attention_mask=move(self.attention_mask),
            labels=move(self.labels),
            visual_mask=move(self.visual_mask),
            pixels=[move(crop) for crop in self.pixels],
            crop_rows=move(self.crop_rows),
            crop_tokens=move(self.crop_tokens),
            costs=move(self.costs),
            features=None if self.features is None else [move(feature) for feature in self.features],
            rows={name: move(value) for name, value in self.rows.items()},
            crop_sizes=None if self.crop_sizes is None else move(self.crop_sizes),
            regions=None if self.regions is None else self.regions.converted(move),
        )


class Collator(Protocol):
    """What the hook ``collator`` returns."""

    def __call__(self, examples: Sequence[Example]) -> Batch: ...
