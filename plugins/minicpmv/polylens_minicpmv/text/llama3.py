"""The template of MiniCPM-Llama3-V 2.5."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from transformers import PreTrainedTokenizerBase

from polylens.contracts import Message, SlicedImage
from polylens.modeling.segments import Piece, Segment
from polylens_minicpmv.text.placeholders import wrapped
from polylens_minicpmv.text.tokenization import LLAMA3
from polylens_minicpmv.text.turns import HeaderTemplate

BOS, EOS, HEADER_START, HEADER_END, END = LLAMA3.turns


class Llama3Template(HeaderTemplate):
    """Llama 3's turns, each without the white space around its text, as in the published chat template.

    ``plain`` is ``<|begin_of_text|>`` and the parts as they are.
    """

    name = "MiniCPM-Llama3-V 2.5"
    special = LLAMA3
    refused = (*LLAMA3.image, *LLAMA3.turns)
    end = END

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, original_targets: bool = False) -> None:
        super().__init__(tokenizer, original_targets=original_targets)
        self._bos = (self._ids[BOS],)
        self.stop_ids = (self._ids[END], self._ids[EOS])

    def header(self, role: str) -> str:
        return f"{HEADER_START}{role}{HEADER_END}\n\n"

    def _pictures(self, images: Sequence[SlicedImage]) -> list[str]:
        return self._spaced([wrapped(image, self.special.slot) for image in images])

    def _plain(self, pieces: list[list[Piece]]) -> Segment:
        segment = super()._plain(pieces)
        segment.before = self._bos
        return segment

    def _turns(self, messages: Sequence[Message], pieces: list[list[Piece]], generation_prompt: bool) -> list[Segment]:
        segments = super()._turns(messages, [trimmed(own) for own in pieces], generation_prompt)
        segments[0].before = self._bos
        return segments


def trimmed(pieces: Sequence[Piece]) -> list[Piece]:
    """The same message without white space at its beginning and its end."""
    return _without_margin(_without_margin(list(pieces), str.lstrip)[::-1], str.rstrip)[::-1]


def _without_margin(pieces: list[Piece], strip: Callable[[str], str]) -> list[Piece]:
    for place, piece in enumerate(pieces):
        if piece.fixed:
            break
        pieces[place] = Piece(strip(piece.text))
        if pieces[place].text:
            break
    return pieces
