"""Conversations of MiniCPM-V 2.0 as tokens; the same object serves training and inference."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from transformers import PreTrainedTokenizerBase

from polylens.contracts import Encoding, ImageRef, Message, SlicedImage
from polylens.errors import InputError
from polylens_minicpmv.original_targets import original_layout, original_targets
from polylens_minicpmv.placeholders import placeholder
from polylens_minicpmv.segments import Piece, Segment, shorten
from polylens_minicpmv.tokenization import BOS, EOS, IMAGE_END, IMAGE_START, IMAGE_TOKENS, SLOT

USER, ASSISTANT = "<用户>", "<AI>"


class MiniCPMV2Template:
    """The template of MiniCPM-V 2.0.

    ``plain`` is ``<s>`` and the parts as they are. ``chat`` is ``<s><用户>question<AI>answer</s>`` and so on: the
    user's turn is tokenised as the published model's ``chat`` does, the answer on its own as its fine-tuning does,
    and the model learns to end every answer.

    Args:
        original_targets: make the tokens and targets of the original fine-tuning instead, defects included.

    Attributes:
        stop_ids: ``</s>``, which ends an answer.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, original_targets: bool = False) -> None:
        self.tokenizer = tokenizer
        self.original_targets = original_targets
        self._ids = tokenizer.get_vocab()
        self.stop_ids = (self._ids[EOS],)

    def encode(
        self,
        messages: Sequence[Message],
        images: Sequence[SlicedImage],
        *,
        style: Literal["chat", "plain"] = "chat",
        generation_prompt: bool = False,
        max_length: int | None = None,
    ) -> Encoding:
        """Tokens of a conversation, as ``polylens.contracts.ChatTemplate`` says.

        Raises:
            InputError: also if the turns are not user, assistant, user, ... or a ``plain`` text has several.
        """
        pieces = _pieces(messages, images)
        segments = self._segments(messages, pieces, style, generation_prompt)
        for segment in segments:
            segment.tokenise(self.tokenizer)
        if max_length is not None:
            shorten(segments, max_length)
        ids = [token for segment in segments for token in segment.ids]
        return Encoding(ids, self._labels(segments, style), self._visual_mask(ids))

    def _segments(
        self, messages: Sequence[Message], pieces: list[list[Piece]], style: str, generation_prompt: bool
    ) -> list[Segment]:
        bos, eos = (self._ids[BOS],), (self._ids[EOS],)
        if style == "plain":
            if len(pieces) != 1:
                raise InputError(f"style 'plain' takes one message, and the record has {len(pieces)}")
            return [Segment(pieces[0], before=bos)]
        _check_turns(messages)
        if self.original_targets:
            return original_layout(messages, pieces, generation_prompt, eos)
        return list(_turns(messages, pieces, generation_prompt, bos, eos))

    def _labels(self, segments: list[Segment], style: str) -> list[int]:
        labels = [label for segment in segments for label in segment.labels]
        if self.original_targets and style == "chat":
            return original_targets(labels, self._ids[EOS])
        return labels

    def _visual_mask(self, ids: list[int]) -> list[bool]:
        start, end, slot = (self._ids[token] for token in (IMAGE_START, IMAGE_END, SLOT))
        mask, inside = [], False
        for token in ids:
            inside = token != end and (inside or token == start)
            mask.append(inside and token == slot)
        return mask


def _turns(
    messages: Sequence[Message],
    pieces: list[list[Piece]],
    generation_prompt: bool,
    bos: tuple[int, ...],
    eos: tuple[int, ...],
) -> Iterator[Segment]:
    for place, (message, own) in enumerate(zip(messages, pieces, strict=True)):
        if message.role == "assistant":
            yield Segment(own, after=eos, supervised=True)
            continue
        answered = place + 1 < len(messages) or generation_prompt
        tag = [Piece(ASSISTANT, fixed=True)] if answered else []
        yield Segment([Piece(USER, fixed=True), *own, *tag], before=bos if place == 0 else ())


def _check_turns(messages: Sequence[Message]) -> None:
    roles = [message.role for message in messages]
    if "system" in roles:
        raise InputError("MiniCPM-V 2.0 has no system turn; put its text at the beginning of the first user turn")
    if not roles or roles != ["user", "assistant"] * (len(roles) // 2) + ["user"] * (len(roles) % 2):
        raise InputError(f"the turns are {', '.join(roles) or 'none'}; they must be user, assistant, user, ...")


def _pieces(messages: Sequence[Message], images: Sequence[SlicedImage]) -> list[list[Piece]]:
    """The parts of each message as text."""
    count = sum(isinstance(part, ImageRef) for message in messages for part in message.parts)
    if count != len(images):
        raise InputError(f"the record names {count} pictures, and {len(images)} were given")
    pictures = iter(images)
    return [
        [_picture(message, next(pictures)) if isinstance(part, ImageRef) else _text(part) for part in message.parts]
        for message in messages
    ]


def _picture(message: Message, image: SlicedImage) -> Piece:
    if message.role == "assistant":
        raise InputError("an assistant turn holds a picture; MiniCPM-V 2.0 reads pictures in user turns only")
    return Piece(placeholder(image), fixed=True)


def _text(text: str) -> Piece:
    found = [token for token in IMAGE_TOKENS if token in text]
    if found:
        raise InputError(f"a text contains the image token {found[0]!r}: pictures are given as parts of a message")
    return Piece(text)
