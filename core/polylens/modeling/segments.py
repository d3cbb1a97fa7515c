"""Pieces of a conversation, their tokens, and how they are shortened."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedTokenizerBase

from polylens.contracts import IGNORE_INDEX
from polylens.errors import InputError

FIXED = -1
"""Owner of a token that must stay."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Some text.

    Attributes:
        fixed: never shortened, such as tags and pictures.
        supervised: whether the model learns to say it.
    """

    text: str
    fixed: bool = False
    supervised: bool = False


@dataclass(slots=True)
class Segment:
    """Pieces that are tokenised as one string.

    Attributes:
        before, after: token ids around it that no text stands for, such as the end of a turn.
        supervised: whether the model learns to say all of it. Of a segment that is not, it learns the tokens that
            touch a supervised piece.
        ids: its tokens.
        owners: for each token the index of the piece that may lose it, or ``FIXED``.
        taught: for each token whether it is supervised.
    """

    pieces: list[Piece]
    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()
    supervised: bool = False
    ids: list[int] = field(default_factory=list)
    owners: list[int] = field(default_factory=list)
    taught: list[bool] = field(default_factory=list)

    def tokenise(self, tokenizer: PreTrainedTokenizerBase) -> Segment:
        """Fill in ``ids``, ``owners`` and ``taught``."""
        text = "".join(piece.text for piece in self.pieces)
        encoded = tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)
        places = encoded["offset_mapping"]
        inside = [self.supervised or self._touches_supervised(start, end) for start, end in places]
        self.ids = [*self.before, *encoded["input_ids"], *self.after]
        self.owners = self._around(FIXED, [self._owner(start, end) for start, end in places])
        self.taught = self._around(self.supervised, inside)
        return self

    def _around(self, value: Any, inside: list[Any]) -> list[Any]:
        return [value] * len(self.before) + inside + [value] * len(self.after)

    def _owner(self, start: int, end: int) -> int:
        """The piece that holds the characters from ``start`` to ``end``; a token that touches fixed text is fixed."""
        position = 0
        for index, piece in enumerate(self.pieces):
            position += len(piece.text)
            if start < position:
                return FIXED if piece.fixed or end > position else index
        return FIXED

    def _touches_supervised(self, start: int, end: int) -> bool:
        position = 0
        for piece in self.pieces:
            first, position = position, position + len(piece.text)
            if piece.supervised and start < position and end > first:
                return True
        return False

    def keep(self, lengths: dict[int, int]) -> None:
        """Keep the first ``lengths[piece]`` tokens of each piece.

        What follows a shortened answer is no longer taught: the model would learn to stop where the answer was cut.
        """
        seen: Counter[int] = Counter()
        kept, cut = [], False
        for token, owner, taught in zip(self.ids, self.owners, self.taught, strict=True):
            seen[owner] += 1
            if owner != FIXED and seen[owner] > lengths[owner]:
                cut = cut or taught
                continue
            cut = cut and taught
            kept.append((token, owner, taught and not cut))
        self.ids, self.owners, self.taught = ([entry[i] for entry in kept] for i in range(3))

    @property
    def labels(self) -> list[int]:
        """The tokens where they are supervised."""
        return [token if taught else IGNORE_INDEX for token, taught in zip(self.ids, self.taught, strict=True)]


def tokens_and_labels(
    segments: Sequence[Segment], tokenizer: PreTrainedTokenizerBase, max_length: int | None, advice: str = ""
) -> tuple[list[int], list[int]]:
    """Tokenise segments, shorten them to ``max_length`` tokens if it is given, and join their tokens and labels.

    Raises:
        InputError: what must stay is longer than ``max_length``; see ``shorten``.
    """
    for segment in segments:
        segment.tokenise(tokenizer)
    if max_length is not None:
        shorten(segments, max_length, advice)
    return (
        [token for segment in segments for token in segment.ids],
        [label for segment in segments for label in segment.labels],
    )


def shorten(segments: Sequence[Segment], limit: int, advice: str = "") -> None:
    """Shorten the longest pieces of text until all tokens fit into ``limit``; nothing else is touched.

    Args:
        advice: how else pictures may be made to fit, for the error message.

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
            f"at least {fixed}{advice}"
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
