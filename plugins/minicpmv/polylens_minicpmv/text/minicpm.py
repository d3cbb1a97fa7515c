"""The template of MiniCPM-V 2.0."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from transformers import PreTrainedTokenizerBase

from polylens.contracts import Message, SlicedImage
from polylens.modeling.segments import Piece, Segment
from polylens_minicpmv.text.original_targets import repeat_end
from polylens_minicpmv.text.placeholders import wrapped
from polylens_minicpmv.text.template import MiniCPMVTemplate
from polylens_minicpmv.text.tokenization import MINICPM

BOS, EOS = MINICPM.turns
TAGS = {"user": "<用户>", "assistant": "<AI>"}


class MiniCPMTemplate(MiniCPMVTemplate):
    """``plain`` is ``<s>`` and the parts as they are. ``chat`` is ``<s><用户>question<AI>answer</s>`` and so on: the
    user's turn is tokenised as the published model's ``chat`` does, the answer on its own as its fine-tuning does, and
    the model learns to end every answer.

    The original fine-tuning tokenises tags and texts each on their own; it has no ``<s>``, and ``</s>`` after the last
    message only. Where an earlier answer ends, its target is ``</s>`` although the next tag follows.
    """

    name = "MiniCPM-V 2.0"
    special = MINICPM
    refused = MINICPM.image
    has_system_turn = False

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, original_targets: bool = False) -> None:
        super().__init__(tokenizer, original_targets=original_targets)
        self._bos, self._eos = (self._ids[BOS],), (self._ids[EOS],)
        self.stop_ids = self._eos

    def _plain(self, pieces: list[list[Piece]]) -> Segment:
        segment = super()._plain(pieces)
        segment.before = self._bos
        return segment

    def _pictures(self, images: Sequence[SlicedImage]) -> list[str]:
        return [wrapped(image, self.special.slot) for image in images]

    def _turns(self, messages: Sequence[Message], pieces: list[list[Piece]], generation_prompt: bool) -> list[Segment]:
        if self.original_targets:
            return self._original_turns(messages, pieces, generation_prompt)
        return list(self._right_turns(messages, pieces, generation_prompt))

    def _right_turns(
        self, messages: Sequence[Message], pieces: list[list[Piece]], generation_prompt: bool
    ) -> Iterator[Segment]:
        for place, (message, own) in enumerate(zip(messages, pieces, strict=True)):
            if message.role == "assistant":
                yield Segment(own, after=self._eos, supervised=True)
                continue
            answered = place + 1 < len(messages) or generation_prompt
            tag = [_tag("assistant")] if answered else []
            yield Segment([_tag("user"), *own, *tag], before=self._bos if place == 0 else ())

    def _original_turns(
        self, messages: Sequence[Message], pieces: list[list[Piece]], generation_prompt: bool
    ) -> list[Segment]:
        segments = []
        for message, own in zip(messages, pieces, strict=True):
            segments.append(Segment([_tag(message.role)]))
            segments.append(Segment(own, supervised=message.role == "assistant"))
        if generation_prompt:
            return [*segments, Segment([_tag("assistant")])]
        segments[-1].after = self._eos
        return segments

    def _original_labels(self, ids: list[int], labels: list[int]) -> list[int]:
        return repeat_end(labels, self._eos[0])


def _tag(role: str) -> Piece:
    return Piece(TAGS[role], fixed=True)
