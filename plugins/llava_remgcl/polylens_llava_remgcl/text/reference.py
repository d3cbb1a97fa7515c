"""Token ids as transformers 4 made them of text, through sentencepiece.

Its tokenizers cut text at special tokens and gave each part to sentencepiece. ``legacy`` ones put a blank before every
part; later ones before the first part alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from sentencepiece import SentencePieceProcessor
from transformers import PreTrainedTokenizerBase

from polylens.errors import InputError

BLANK = "▁"
UNKNOWN = "<unk>"
Mode = Literal["legacy", "nonlegacy"]


class ReferenceTokenizer:
    """Stands in for a tokenizer where tokens and their places are asked for.

    Args:
        tokenizer: of the checkpoint, whose folder has ``tokenizer.model``.

    Raises:
        InputError: there is no such file.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, mode: Mode) -> None:
        file = Path(str(tokenizer.name_or_path)) / "tokenizer.model"
        if not file.is_file():
            raise InputError(
                f"compat.reference_ids needs the sentencepiece model of the tokenizer, and {file} is not there; leave "
                "the option out, or copy tokenizer.model from the language model"
            )
        self.pieces, self.mode = SentencePieceProcessor(model_file=str(file)), mode
        self.added = dict(sorted(_added(tokenizer, self.pieces).items(), key=lambda item: -len(item[0])))
        self._cut = re.compile(f"({'|'.join(map(re.escape, self.added))})")
        self._unknown = len(self.pieces.encode(UNKNOWN, out_type=int))

    def __call__(self, text: str, **_: Any) -> dict[str, list[Any]]:
        """``input_ids`` and ``offset_mapping`` of a text, without a token before it."""
        ids, places, begin = [], [], 0
        for number, part in enumerate(part for part in self._cut.split(text)):
            if part in self.added:
                ids.append(self.added[part])
                places.append((begin, begin + len(part)))
            elif part:
                for token, start, end in self._part(part, blank=self.mode == "legacy" or number == 0):
                    ids.append(token)
                    places.append((begin + start, begin + end))
            begin += len(part)
        return {"input_ids": ids, "offset_mapping": places}

    def _part(self, text: str, *, blank: bool) -> Iterator[tuple[int, int, int]]:
        """Token, start and end of each token; ``blank`` puts one before the text."""
        ids = self.pieces.encode(text if blank else UNKNOWN + text, out_type=int)
        ids = ids if blank else ids[self._unknown :]
        spelled = text.encode()
        starts = _characters(text)
        at = -1 if blank else 0
        for token in ids:
            length = self._length(token)
            first, at = max(at, 0), min(at + length, len(spelled))
            yield (
                token,
                starts[first],
                max(starts[max(at, 0)], starts[first] + 1),
            )  # a part of a character is all of it

    def _length(self, token: int) -> int:
        """Bytes of text that a token stands for."""
        if self.pieces.is_byte(token):
            return 1
        return len(self.pieces.id_to_piece(token).replace(BLANK, " ").encode())


def _characters(text: str) -> Sequence[int]:
    """For each byte of a text, and for its end, how many characters end before it."""
    return [place for place, character in enumerate(text) for _ in character.encode()] + [len(text)]


def _added(tokenizer: PreTrainedTokenizerBase, pieces: SentencePieceProcessor) -> dict[str, int]:
    """Tokens that are never parts of text: the special ones, and those that sentencepiece does not know."""
    vocabulary = tokenizer.get_vocab()
    special = set(map(str, tokenizer.all_special_tokens))
    known = pieces.get_piece_size()
    return {token: number for token, number in vocabulary.items() if token in special or number >= known}
