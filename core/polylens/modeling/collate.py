"""Examples into a batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from polylens.contracts import IGNORE_INDEX, Batch, Example, Regions


class PaddingCollator:
    """Pads every row to the longest one.

    Args:
        pad_token_id: written into ``input_ids``; masked everywhere else.
        padding_side: ``right`` for training and encoding, ``left`` for generation.
    """

    def __init__(self, pad_token_id: int, padding_side: str = "right") -> None:
        if padding_side not in ("left", "right"):
            raise ValueError(f"padding_side is {padding_side!r}, not 'left' or 'right'")
        self.pad_token_id = pad_token_id
        self.padding_side = padding_side

    def __call__(self, examples: Sequence[Example]) -> Batch:
        """A batch of the examples in their order.

        Raises:
            ValueError: no example was given.
        """
        if not examples:
            raise ValueError("a batch needs at least one example")
        crops = [(row, count) for row, example in enumerate(examples) for count in example.crop_tokens]
        sizes = [tuple(crop.shape[-2:]) for example in examples for crop in example.pixels]
        names = examples[0].rows.keys()
        return Batch(
            ids=[example.id for example in examples],
            input_ids=self._pad([example.input_ids for example in examples], self.pad_token_id),
            attention_mask=self._pad([torch.ones_like(e.visual_mask) for e in examples], False),
            labels=self._pad([example.labels for example in examples], IGNORE_INDEX),
            visual_mask=self._pad([example.visual_mask for example in examples], False),
            pixels=[crop for example in examples for crop in example.pixels],
            crop_rows=torch.tensor([row for row, _ in crops], dtype=torch.long),
            crop_tokens=torch.tensor([count for _, count in crops], dtype=torch.long),
            costs=torch.tensor([example.cost for example in examples], dtype=torch.long),
            rows={n: torch.stack([torch.as_tensor(e.rows[n]) for e in examples]) for n in names},
            crop_sizes=torch.tensor(sizes, dtype=torch.long).view(-1, 2),
            regions=_regions(examples),
        )

    def _pad(self, rows: Sequence[Tensor], value: int | bool) -> Tensor:
        return torch.nn.utils.rnn.pad_sequence(
            list(rows), batch_first=True, padding_value=value, padding_side=self.padding_side
        )


def _regions(examples: Sequence[Example]) -> Regions | None:
    """Those of all rows; a row without any, such as one that stands for nothing, has no visual tokens."""
    found = [example.regions for example in examples]
    if all(regions is None for regions in found):
        return None
    return Regions.joined([regions or Regions.of_example([]) for regions in found])
