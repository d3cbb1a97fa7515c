"""What the visual tokens of pictures show."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Protocol

from polylens.contracts.images import SlicedImage

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor


class Cover(Protocol):
    """Says what visual tokens show; ``polylens.modeling.coverage`` has the core's own."""

    def tokens(self, sliced: SlicedImage, boxes: np.ndarray) -> list[np.ndarray]:
        """For each box [K, 4] in pixels of the picture, the numbers of the visual tokens that show it."""
        ...

    def on_picture(self, sliced: SlicedImage) -> np.ndarray:
        """bool [V], false for tokens that show nothing but padding."""
        ...


@dataclass(slots=True)
class Regions:
    """Which visual tokens lie on a picture, and which of them show a line of its text.

    Rows may have any number of visual tokens, lines, ids and covered tokens, none included. V visual tokens, K lines.

    Attributes:
        visual_counts: int64 [B], visual tokens of each row.
        on_picture: bool [V], false for tokens that show nothing but padding, first row first.
        line_rows: int64 [K], the row of each line, ascending.
        scores: float32 [K], how sure the OCR engine is of a line, 0 to 1.
        id_counts: int64 [K], token ids of each line.
        ids: int64, token ids of all lines, one line after the other.
        token_counts: int64 [K], visual tokens that show each line.
        tokens: int64, places of these among the visual tokens of the line's row, one line after the other.
    """

    visual_counts: Tensor
    on_picture: Tensor
    line_rows: Tensor
    scores: Tensor
    id_counts: Tensor
    ids: Tensor
    token_counts: Tensor
    tokens: Tensor

    @property
    def lines(self) -> int:
        """K."""
        return len(self.line_rows)

    @classmethod
    def of_example(
        cls, on_picture: Sequence[bool], lines: Iterable[tuple[Sequence[int], Sequence[int], float]] = ()
    ) -> Regions:
        """Of one row.

        Args:
            on_picture: of each visual token.
            lines: token ids, covered visual tokens and score of each line.
        """
        import torch

        given = list(lines)
        return cls(
            visual_counts=torch.tensor([len(on_picture)]),
            on_picture=torch.as_tensor(on_picture, dtype=torch.bool),
            line_rows=torch.zeros(len(given), dtype=torch.long),
            scores=torch.tensor([score for *_, score in given], dtype=torch.float32),
            id_counts=torch.tensor([len(ids) for ids, *_ in given], dtype=torch.long),
            ids=torch.tensor([id for ids, *_ in given for id in ids], dtype=torch.long),
            token_counts=torch.tensor([len(tokens) for _, tokens, _ in given], dtype=torch.long),
            tokens=torch.tensor([token for _, tokens, _ in given for token in tokens], dtype=torch.long),
        )

    @classmethod
    def joined(cls, parts: Sequence[Regions]) -> Regions:
        """The rows of all parts, in their order."""
        import torch

        starts = [0]
        for part in parts:
            starts.append(starts[-1] + len(part.visual_counts))
        columns = {field.name: torch.cat([getattr(part, field.name) for part in parts]) for field in fields(cls)}
        moved = [part.line_rows + start for part, start in zip(parts, starts, strict=False)]
        return cls(**{**columns, "line_rows": torch.cat(moved)})

    def take(self, rows: Sequence[int]) -> Regions:
        """The given rows, in the given order."""
        import torch

        chosen = [line for row in rows for line in (self.line_rows == row).nonzero().flatten().tolist()]
        owners = [place for place, row in enumerate(rows) for _ in range(int((self.line_rows == row).sum()))]
        lines = torch.tensor(chosen, dtype=torch.long, device=self.scores.device)
        return Regions(
            visual_counts=self.visual_counts[list(rows)],
            on_picture=_runs(self.on_picture, self.visual_counts, rows),
            line_rows=torch.tensor(owners, dtype=torch.long, device=self.scores.device),
            scores=self.scores[lines],
            id_counts=self.id_counts[lines],
            ids=_runs(self.ids, self.id_counts, chosen),
            token_counts=self.token_counts[lines],
            tokens=_runs(self.tokens, self.token_counts, chosen),
        )

    def converted(self, convert: Callable[[Any], Any]) -> Regions:
        """With ``convert`` applied to every part."""
        return Regions(**{field.name: convert(getattr(self, field.name)) for field in fields(self)})


def _runs(values: Tensor, counts: Tensor, chosen: Sequence[int]) -> Tensor:
    """Some of the runs of lengths ``counts`` that ``values`` consists of."""
    import torch

    runs = values.split(counts.tolist())
    return torch.cat([values[:0], *(runs[i] for i in chosen)])
