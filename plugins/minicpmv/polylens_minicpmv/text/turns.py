"""What the templates of versions 2.5 and 2.6 share: a header before every turn and a token after it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

from polylens.contracts import Message
from polylens.modeling.segments import Piece, Segment
from polylens_minicpmv.text.original_targets import repeat_end, supervise
from polylens_minicpmv.text.template import MiniCPMVTemplate


class HeaderTemplate(MiniCPMVTemplate):
    """Turns of the form header, text, end.

    An answer is tokenised apart from the header before it, because that is how the model generates it.

    Attributes:
        end: the token that ends a turn.
        gap: text between the end of a turn and the next header.
    """

    end: ClassVar[str]
    gap: ClassVar[str] = ""

    def header(self, role: str) -> str:
        """What stands before the text of a turn."""
        raise NotImplementedError

    def _turns(self, messages: Sequence[Message], pieces: list[list[Piece]], generation_prompt: bool) -> list[Segment]:
        return self._given_turns(messages, pieces, generation_prompt)

    def _given_turns(
        self, messages: Sequence[Message], pieces: list[list[Piece]], generation_prompt: bool
    ) -> list[Segment]:
        """The turns as they are, with none added."""
        write = self._original_turn if self.original_targets else self._turn
        segments = [
            segment for message, own in zip(messages, pieces, strict=True) for segment in write(message.role, own)
        ]
        if generation_prompt:
            segments.append(Segment([self._header("assistant")]))
        return segments

    def _turn(self, role: str, own: list[Piece]) -> Iterator[Segment]:
        end = Piece(self.end + self.gap, fixed=True)
        if role != "assistant":
            yield Segment([self._header(role), *own, end])
            return
        yield Segment([self._header(role)])
        yield Segment(own, after=(self._ids[self.end],), supervised=True)
        if self.gap:
            yield Segment([Piece(self.gap, fixed=True)])

    def _original_turn(self, role: str, own: list[Piece]) -> Iterator[Segment]:
        yield Segment([self._header(role), *own, Piece(self.end + self.gap, fixed=True)])

    def _original_labels(self, ids: list[int], labels: list[int]) -> list[int]:
        end, header = self._ids[self.end], self.header("assistant")
        marker, whole = (self.tokenizer.encode(text, add_special_tokens=False) for text in (header.rstrip(), header))
        return repeat_end(supervise(ids, marker, len(whole), end), end)

    def _spaced(self, pictures: list[str]) -> list[str]:
        """The original fine-tuning puts a line break before and after each of several pictures."""
        return [f"\n{text}\n" for text in pictures] if self.original_targets and len(pictures) > 1 else pictures

    def _header(self, role: str) -> Piece:
        return Piece(self.header(role), fixed=True)
