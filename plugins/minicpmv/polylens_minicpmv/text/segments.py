"""Pieces of a conversation, their tokens, and how they are shortened."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from transformers import PreTrainedTokenizerBase

from polylens.contracts import IGNORE_INDEX
from polylens.errors import InputError

FIXED = -1
"""Owner of a token that must stay."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Some text; ``fixed`` text (tags, pictures) is never shortened."""

    text: str
    fixed: bool = False


@dataclass(slots=True)
class Segment:
    """Pieces that are tokenised as one string.

    Attributes:
        before, after: token ids around it that no text stands for, such as the end of a turn.
        supervised: whether the model learns to say it.
        ids: its tokens.
        owners: for each token the index of the piece that may lose it, or ``FIXED``.
        shortened: whether tokens were taken away.
    """

    pieces: list[Piece]
    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()
    supervised: bool = False
    ids: list[int] = field(default_factory=list)
    owners: list[int] = field(default_factory=list)
    shortened: bool = False

    def tokenise(self, tokenizer: PreTrainedTokenizerBase) -> Segment:
        """Fill in ``ids`` and ``owners``."""
        text = "".join(piece.text for piece in self.pieces)
        encoded = tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)
        owners = [self._owner(start, end) for start, end in encoded["offset_mapping"]]
        self.ids = [*self.before, *encoded["input_ids"], *self.after]
        self.owners = [FIXED] * len(self.before) + owners + [FIXED] * len(self.after)
        return self

    def _owner(self, start: int, end: int) -> int:
        """The piece that holds the characters from ``start`` to ``end``; a token that touches fixed text is fixed."""
        position = 0
        for index, piece in enumerate(self.pieces):
            position += len(piece.text)
            if start < position:
                return FIXED if piece.fixed or end > position else index
        return FIXED

    def keep(self, lengths: dict[int, int]) -> None:
        """Keep the first ``lengths[piece]`` tokens of each piece."""
        seen: Counter[int] = Counter()
        kept = []
        for token, owner in zip(self.ids, self.owners, strict=True):
            seen[owner] += 1
            if owner == FIXED or seen[owner] <= lengths[owner]:
                kept.append((token, owner))
        self.shortened = len(kept) < len(self.ids)
        self.ids = [token for token, _ in kept]
        self.owners = [owner for _, owner in kept]

    @property
    def labels(self) -> list[int]:
        """The tokens where they are supervised. A shortened answer does not teach to stop where it was cut."""
        if not self.supervised:
            return [IGNORE_INDEX] * len(self.ids)
        if self.shortened and self.after:
            return self.ids[: -len(self.after)] + [IGNORE_INDEX] * len(self.after)
        return list(self.ids)


def shorten(segments: Sequence[Segment], limit: int) -> None:
    """Shorten the longest pieces of text until all tokens fit into ``limit``; nothing else is touched.

    Raises:
        InputError: what must stay is longer than ``limit``.
    """
    if sum(len(segment.ids) for segment in segments) <= limit:
        return
    owned = Counter((place, owner) for place, segment in enumerate(segments) for owner in segment.owners)
    fixed = sum(count for (_, owner), count in owned.items() if owner == FIXED)
    if fixed > limit:
        raise InputError(
            f"the pictures and tags alone are {fixed} tokens, and the limit is {limit}; raise the maximal length to "
            f"at least {fixed}, or make pictures cheaper with the option max_slice_nums"
        )
    pieces = {key: count for key, count in owned.items() if key[1] != FIXED}
    allowed = dict(zip(pieces, level(list(pieces.values()), limit - fixed), strict=True))
    for place, segment in enumerate(segments):
        segment.keep({owner: count for (at, owner), count in allowed.items() if at == place})


def level(lengths: Sequence[int], total: int) -> list[int]:
    """Lengths that sum to at most ``total``, the longest shortened to one common length.

    >>> level([3, 9, 8], 12)
    [3, 5, 4]
    """
    remaining = total
    result = list(lengths)
    order = sorted(range(len(lengths)), key=lambda place: (lengths[place], -place))
    for rank, place in enumerate(order):
        result[place] = min(lengths[place], remaining // (len(order) - rank))
        remaining -= result[place]
    return result
