"""What the templates of all versions share; the same object serves training and inference."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar, Literal

from transformers import PreTrainedTokenizerBase

from polylens.contracts import Encoding, ImageRef, Message, SlicedImage
from polylens.errors import InputError
from polylens.modeling.segments import Piece, Segment, tokens_and_labels
from polylens_minicpmv.text.tokenization import IMAGE_END, IMAGE_START, SpecialTokens


class MiniCPMVTemplate:
    """Conversations as tokens; a version says how turns and pictures are written.

    Args:
        original_targets: make the tokens and targets of the original fine-tuning instead, defects included.

    Attributes:
        name: of the version, for messages.
        special: tokens with a meaning of their own.
        refused: those that no text may contain.
        has_system_turn: whether a conversation may begin with one.
        starts, ends: between one of the first and one of the second, ``<unk>`` is a slot.
        stop_ids: tokens that end an answer.
    """

    name: ClassVar[str]
    special: ClassVar[SpecialTokens]
    refused: ClassVar[tuple[str, ...]]
    has_system_turn: ClassVar[bool] = True
    starts: ClassVar[tuple[str, ...]] = (IMAGE_START,)
    ends: ClassVar[tuple[str, ...]] = (IMAGE_END,)
    stop_ids: Sequence[int]

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, original_targets: bool = False) -> None:
        self.tokenizer = tokenizer
        self.original_targets = original_targets
        self._ids = tokenizer.get_vocab()

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
        pieces = self._pieces(messages, images)
        if style == "plain":
            segments = [self._plain(pieces)]
        else:
            self._check_turns(messages)
            segments = self._turns(messages, pieces, generation_prompt)
        advice = ", or make pictures cheaper with the option max_slice_nums"
        ids, labels = tokens_and_labels(segments, self.tokenizer, max_length, advice)
        if style == "chat" and self.original_targets:
            labels = self._original_labels(ids, labels)
        return Encoding(ids, labels, self._visual_mask(ids))

    def _plain(self, pieces: list[list[Piece]]) -> Segment:
        if len(pieces) != 1:
            raise InputError(f"style 'plain' takes one message, and the record has {len(pieces)}")
        return Segment(pieces[0])

    def _turns(self, messages: Sequence[Message], pieces: list[list[Piece]], generation_prompt: bool) -> list[Segment]:
        """The conversation; ``pieces`` are the parts of each message."""
        raise NotImplementedError

    def _pictures(self, images: Sequence[SlicedImage]) -> list[str]:
        """The text that stands for each picture of a conversation."""
        raise NotImplementedError

    def _original_labels(self, ids: list[int], labels: list[int]) -> list[int]:
        """Targets of the original fine-tuning, not shifted."""
        raise NotImplementedError

    def _pieces(self, messages: Sequence[Message], images: Sequence[SlicedImage]) -> list[list[Piece]]:
        """The parts of each message as text."""
        wanted = sum(isinstance(part, ImageRef) for message in messages for part in message.parts)
        if wanted != len(images):
            raise InputError(f"the record names {wanted} pictures, and {len(images)} were given")
        pictures = iter(self._pictures(images))
        return [[self._piece(message, part, pictures) for part in message.parts] for message in messages]

    def _piece(self, message: Message, part: str | ImageRef, pictures: Iterator[str]) -> Piece:
        if isinstance(part, str):
            return Piece(self._checked(part))
        if message.role != "user":
            raise InputError(f"the {message.role} turn holds a picture; {self.name} reads pictures in user turns")
        return Piece(next(pictures), fixed=True)

    def _checked(self, text: str) -> str:
        found = [token for token in self.refused if token in text]
        if not found:
            return text
        if found[0] in self.special.image:
            raise InputError(f"a text contains the image token {found[0]!r}: pictures are given as parts of a message")
        raise InputError(f"a text contains {found[0]!r}, which {self.name} writes around turns; remove it")

    def _check_turns(self, messages: Sequence[Message]) -> None:
        roles = [message.role for message in messages]
        if not self.has_system_turn and "system" in roles:
            raise InputError(f"{self.name} has no system turn; put its text at the beginning of the first user turn")
        spoken = roles[1:] if roles[:1] == ["system"] else roles
        if not spoken or spoken != ["user", "assistant"] * (len(spoken) // 2) + ["user"] * (len(spoken) % 2):
            raise InputError(f"the turns are {', '.join(roles) or 'none'}; they must be user, assistant, user, ...")

    def _visual_mask(self, ids: list[int]) -> list[bool]:
        starts, ends = {self._ids[token] for token in self.starts}, {self._ids[token] for token in self.ends}
        slot, mask, inside = self._ids[self.special.slot], [], False
        for token in ids:
            inside = token not in ends and (inside or token in starts)
            mask.append(inside and token == slot)
        return mask
