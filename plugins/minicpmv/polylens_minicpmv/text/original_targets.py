"""Targets as the original fine-tunings made them (``compat.original_targets``).

They are shifted by one and teach, behind every answer that something follows, to say the end token again.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from polylens.contracts import IGNORE_INDEX


def repeat_end(labels: Sequence[int], end: int) -> list[int]:
    """Labels with the end token on the first token behind every supervised run."""
    result = list(labels)
    for place, (before, label) in enumerate(pairwise(labels), start=1):
        if label == IGNORE_INDEX and before != IGNORE_INDEX:
            result[place] = end
    return result


def supervise(ids: Sequence[int], header: Sequence[int], skipped: int, end: int) -> list[int]:
    """Labels of a whole conversation: from behind each assistant header to the end token after it.

    An end token that follows the header at once does not count: after an empty answer, the next turn of the user is
    supervised too.

    Args:
        header: tokens that an assistant turn begins with, without white space.
        skipped: how many tokens the header is long with it.
    """
    labels = [IGNORE_INDEX] * len(ids)
    for start in range(len(ids) - len(header) + 1):
        if list(ids[start : start + len(header)]) == list(header):
            first = start + skipped
            last = next((place for place in range(first + 1, len(ids)) if ids[place] == end), None)
            if last is not None:
                labels[first : last + 1] = ids[first : last + 1]
    return labels
