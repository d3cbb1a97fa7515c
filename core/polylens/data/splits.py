"""Divides pairs into training, validation and test so that no document is in two of them."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterable, Mapping, Sequence

from polylens.errors import InputError

__all__ = ["Groups", "pack_batches", "seeded_order", "split_groups"]


class Groups:
    """Things that must stay together (a union-find forest over names).

    >>> groups = Groups()
    >>> groups.join(["a.pdf", "b.pdf"])
    >>> groups.join(["c.pdf"])
    >>> groups.join(["b.pdf", "0.pdf"])
    >>> groups["a.pdf"], groups["c.pdf"], groups.get("d.pdf")
    ('0.pdf', 'c.pdf', None)
    """

    def __init__(self) -> None:
        self._parents: dict[str, str] = {}

    def join(self, names: Iterable[str]) -> None:
        """Put all names into one group."""
        first = None
        for name in names:
            root = self._root(name)
            if first is None:
                first = root
            elif root != first:
                # The smaller name leads, so that a group's name does not depend on the order of joining.
                first, other = min(first, root), max(first, root)
                self._parents[other] = first

    def __getitem__(self, name: str) -> str:
        """The group's name: the smallest of its members."""
        return self._root(name)

    def get(self, name: str) -> str | None:
        """The group's name, or ``None`` for a name that was never joined."""
        return self._root(name) if name in self._parents else None

    def _root(self, name: str) -> str:
        root = self._parents.setdefault(name, name)
        while self._parents[root] != root:
            root = self._parents[root]
        while self._parents[name] != root:
            self._parents[name], name = root, self._parents[name]
        return root


def seeded_order(name: str, seed: int) -> bytes:
    """A sort key that shuffles by the seed, whatever order the names come in."""
    return hashlib.blake2b(f"{seed}\0{name}".encode(), digest_size=16).digest()


def split_groups(sizes: Mapping[str, int], fractions: Mapping[str, float], seed: int) -> dict[str, str]:
    """Assign whole groups to splits, near the fractions of pairs that are asked for.

    Groups come in the order that the seed gives, but those larger than half of the smallest split come first; each
    goes to the split that lacks most. The result depends on the groups and the seed, not on the order of files.

    Args:
        sizes: pairs of each group.
        fractions: of the pairs, for each split; they sum to 1.

    Returns:
        The split of each group.

    Raises:
        InputError: there are too few groups for every split to get one.
    """
    wanted = {split: fraction * sum(sizes.values()) for split, fraction in fractions.items() if fraction > 0}
    if len(sizes) < len(wanted):
        raise InputError(
            f"{len(sizes)} independent groups of documents cannot be divided into {', '.join(wanted)}: "
            "pages of one file, and files that one query names, stay together"
        )
    large = min(wanted.values()) / 2
    ordered = sorted(sizes, key=lambda g: (-sizes[g] if sizes[g] > large else 0, seeded_order(g, seed)))
    lacking, result, empty = dict(wanted), {}, set(wanted)
    for number, group in enumerate(ordered):
        choices = empty if len(empty) == len(ordered) - number else wanted
        result[group] = split = max((name for name in wanted if name in choices), key=lambda name: lacking[name])
        lacking[split] -= sizes[group]
        empty.discard(split)
    return result


def pack_batches(keys: Sequence[Iterable[Hashable]], size: int) -> list[list[int]]:
    """Put items into batches of at most ``size`` in which no two items share a key.

    Each item goes to the first batch that has room and comes after all batches that hold one of its keys. With a
    forest that leads past full batches this takes nearly linear time.

    Returns:
        Positions of the items of each batch; only batches towards the end are not full.

    >>> pack_batches([["a"], ["a", "b"], ["b"], ["c"]], 2)
    [[0, 3], [1], [2]]
    """
    batches: list[list[int]] = []
    following: list[int] = [0]  # A batch with room leads to itself, a full one to a later batch.
    starts: dict[Hashable, int] = {}
    for item, item_keys in enumerate(keys):
        item_keys = set(item_keys)
        batch = _open_batch(following, max((starts.get(key, 0) for key in item_keys), default=0))
        if batch == len(batches):
            batches.append([])
            following.append(batch + 1)
        batches[batch].append(item)
        if len(batches[batch]) == size:
            following[batch] = batch + 1
        starts.update(dict.fromkeys(item_keys, batch + 1))
    return batches


def _open_batch(following: list[int], batch: int) -> int:
    found = batch
    while following[found] != found:
        found = following[found]
    while following[batch] != found:
        following[batch], batch = found, following[batch]
    return found
