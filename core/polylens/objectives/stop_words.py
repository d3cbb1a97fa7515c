"""Words that say little of a picture, as sequences of token ids."""

from __future__ import annotations

import string
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from polylens.errors import InputError, closest

__all__ = ["StopWords", "words_of"]


class StopWords:
    """Finds sequences of token ids in others, as exact integers.

    REMGCL looks for them with a convolution in float32, which misses 29 of its 189 words of several ids.

    Args:
        sequences: token ids of each word.

    >>> words = StopWords([[5], [7, 8]])
    >>> words.found(torch.tensor([[5, 7, 7, 8, 9]])).tolist()
    [[True, False, True, True, False]]
    """

    def __init__(self, sequences: Iterable[Sequence[int]]) -> None:
        unique = sorted({tuple(sequence) for sequence in sequences if len(sequence)})
        letters = sorted({id for sequence in unique for id in sequence})
        self._letters = torch.tensor(letters, dtype=torch.long)
        self._levels = _levels([[letters.index(id) for id in sequence] for sequence in unique], len(letters))

    @classmethod
    def of_words(cls, words: Iterable[str], tokenizer: Any) -> StopWords:
        """Words as they stand in a text: at its beginning and after a blank, capitalised or not.

        Tokens are all that is compared: of a longer word whose first tokens are those of a stop word, these are lost.
        """
        forms = {form for word in words for form in (word, word.capitalize())}
        encode: Callable[[str], list[int]] = lambda text: tokenizer(text, add_special_tokens=False).input_ids  # noqa: E731
        return cls(ids for form in sorted(forms) for ids in _in_text(form, encode))

    def found(self, ids: Tensor) -> Tensor:
        """bool, of the shape of ``ids`` [..., T]: which belong to a word."""
        hit = torch.zeros_like(ids, dtype=torch.bool)
        letters = _places(ids, self._letters.to(ids.device))
        state = torch.zeros_like(ids)
        for n, level in enumerate(self._levels[: ids.shape[-1]], start=1):
            following = letters[..., n - 1 :]
            state = state[..., : following.shape[-1]]
            key = torch.where((state >= 0) & (following >= 0), state * len(self._letters) + following, -1)
            state = _places(key, level.keys.to(ids.device))
            ends = (state >= 0) & level.ends.to(ids.device)[state]
            for offset in range(n):
                hit[..., offset : offset + ends.shape[-1]] |= ends
        return hit


@dataclass(frozen=True, slots=True)
class _Level:
    """The beginnings of words that are n ids long.

    Attributes:
        keys: int64, ascending: number of the beginning that is one id shorter, and the last id, as one integer.
        ends: bool, which are whole words.
    """

    keys: Tensor
    ends: Tensor


def _levels(words: Sequence[Sequence[int]], letters: int) -> list[_Level]:
    """All beginnings of the words, which are sequences of numbers below ``letters``, by their length."""
    numbers: dict[tuple[int, ...], int] = {(): 0}
    levels = []
    for n in range(1, max(map(len, words), default=0) + 1):
        found = {tuple(word[:n]) for word in words if len(word) >= n}
        by_key = {numbers[beginning[:-1]] * letters + beginning[-1]: beginning for beginning in found}
        keys = sorted(by_key)
        numbers = {by_key[key]: number for number, key in enumerate(keys)}
        whole = {tuple(word) for word in words}
        levels.append(_Level(torch.tensor(keys), torch.tensor([by_key[key] in whole for key in keys])))
    return levels


def _places(values: Tensor, known: Tensor) -> Tensor:
    """Place of each value in ``known``, which ascends, or -1."""
    if not len(known):
        return torch.full_like(values, -1)
    place = torch.searchsorted(known, values).clamp(max=len(known) - 1)
    return torch.where(known[place] == values, place, -1)


def words_of(source: str) -> list[str]:
    """The stop words of a language, or those of a file.

    Args:
        source: name or code of a language of the package ``stop-words``, with the signs of punctuation then; or the
            path of a text file in UTF-8 with a word in each line, in which lines that begin with ``#`` are comments.

    Raises:
        InputError: there is neither such a language nor such a file, or the file is not UTF-8 or holds no word.
    """
    from stop_words import AVAILABLE_LANGUAGES, LANGUAGE_MAPPING, get_stop_words

    languages = {*AVAILABLE_LANGUAGES, *LANGUAGE_MAPPING}
    if source in languages:
        return [*get_stop_words(source), *string.punctuation]
    if not Path(source).is_file():
        near = closest(source, sorted(AVAILABLE_LANGUAGES))
        known = ", ".join(sorted(AVAILABLE_LANGUAGES))
        raise InputError(f"stop_words: {source!r} is neither a file nor a language{near}; languages are: {known}")
    return _read(Path(source))


def _read(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise InputError(f"{path}:{line}: stop words must be in UTF-8: save the file in that encoding") from error
    except OSError as error:
        raise InputError(f"stop_words: {path} cannot be read: {error.strerror or error}") from error
    words = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not words:
        raise InputError(f"{path}: there is no stop word in it: write one in each line, or give 'none'")
    return words


def _in_text(word: str, encode: Callable[[str], list[int]]) -> list[list[int]]:
    """Ids of a word that begins a text, if it is capitalised, and of one that follows a blank.

    In lower case and without a blank before it, a word may be the inside of another one, unless the tokenizer marks
    the beginning of a text as a blank (SentencePiece).
    """
    bare, spaced = encode(word), encode(f" {word}")
    if spaced[1:] == bare or spaced == bare:
        return [bare]
    begins = not word[:1].islower()
    return [bare, spaced] if begins else [spaced]
