"""Conversations as TinyLLaVA reads them.

Targets follow from places of characters in the one text that is tokenised. The original tokenises parts of it a second
time to count their tokens, and loses the conversations for which both disagree.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from transformers import PreTrainedTokenizerBase

from polylens.contracts import Encoding, Message, SlicedImage
from polylens.errors import InputError
from polylens.modeling.segments import Piece, Segment, shorten
from polylens.modeling.turns import IMAGE, beginning, check_pictures, check_text, check_turns, pictures_in, text_of

SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions."
)
ENDS = {
    "phi": "<|endoftext|>",
    "llama": "</s>",
    "gemma": "<eos>",
    "qwen2_base": "<|endoftext|>",
    "qwen2_instruct": "<|im_end|>",
}
"""What ends an answer, by the name of the template."""

ADVICE = ", or take a connector with fewer visual tokens"


class TinyLlavaTemplate:
    """``{system} USER: <image>\\n{question} ASSISTANT: {answer}{end}USER: {question} ...``

    Pictures stand before the text of their turn. The blank before an answer belongs to its first token, which is
    supervised.

    Args:
        end: the token that ends an answer.
        system: what a conversation begins with, unless it has a system turn of its own.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, end: str, system: str = SYSTEM) -> None:
        self.tokenizer, self.end, self.system = tokenizer, end, system
        vocabulary = tokenizer.get_vocab()
        if tokenizer.encode(end, add_special_tokens=False) != [vocabulary.get(end)]:
            raise InputError(f"the tokenizer has no token {end!r}, with which this template ends answers")
        self.stop_ids: Sequence[int] = (vocabulary[end],)
        self._slot = vocabulary[end]
        self._refused = (IMAGE, *dict.fromkeys(map(str, tokenizer.all_special_tokens)))
        self._begin = beginning(tokenizer)

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
        self._check(messages, images)
        pictures = iter(images)
        if style == "plain":
            parts = list(self._plain(messages, pictures))
        else:
            check_turns(messages)
            parts = list(self._turns(messages, pictures, generation_prompt))
        segments = self._segments(parts)
        for segment in segments:
            segment.tokenise(self.tokenizer)
        if max_length is not None:
            shorten(segments, max_length, ADVICE)
        ids = [token for segment in segments for token in segment.ids]
        labels = [label for segment in segments for label in segment.labels]
        return Encoding(ids, labels, [not segment.pieces for segment in segments for _ in segment.ids])

    def _plain(self, messages: Sequence[Message], pictures: Iterator[SlicedImage]) -> Iterator[Piece | SlicedImage]:
        if len(messages) != 1:
            raise InputError(f"style 'plain' takes one message, and the record has {len(messages)}")
        for part in messages[0].parts:
            yield Piece(part) if isinstance(part, str) else next(pictures)

    def _turns(
        self, messages: Sequence[Message], pictures: Iterator[SlicedImage], generation_prompt: bool
    ) -> Iterator[Piece | SlicedImage]:
        own = messages[0].role == "system"
        system = text_of(messages[0]) if own else self.system
        if system:
            yield Piece(f"{system} ", fixed=True)
        for place, message in enumerate(messages[own:], start=own + 1):
            if message.role == "user":
                yield from self._question(message, pictures)
                if place < len(messages) or generation_prompt:
                    yield Piece(" ASSISTANT:", fixed=True)
            else:
                yield Piece(f" {text_of(message)}", supervised=True)
                yield Piece(self.end, fixed=True, supervised=True)

    def _question(self, message: Message, pictures: Iterator[SlicedImage]) -> Iterator[Piece | SlicedImage]:
        yield Piece("USER: ", fixed=True)
        shown = pictures_in(message)
        text = text_of(message).strip() if shown else text_of(message)
        for number in range(shown):
            if number:
                yield Piece("\n", fixed=True)
            yield next(pictures)
        yield Piece(f"\n{text}" if shown and text else text)

    def _segments(self, parts: Sequence[Piece | SlicedImage]) -> list[Segment]:
        """Text between pictures is tokenised as one string; a picture is a segment without pieces."""
        segments = [Segment([Piece("")], before=self._begin)]
        for part in parts:
            if isinstance(part, SlicedImage):
                slots = (self._slot,) * part.visual_tokens
                segments += [Segment([], before=slots), Segment([Piece("")])]
            else:
                segments[-1].pieces.append(part)
        return segments

    def _check(self, messages: Sequence[Message], images: Sequence[SlicedImage]) -> None:
        check_pictures(messages, images)
        for message in messages:
            check_text(text_of(message), self._refused)


class PretrainTemplate(TinyLlavaTemplate):
    """``<image>{caption}\\n``, of the first stage: no question, no system turn, and a line break for the end."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__(tokenizer, str(tokenizer.eos_token))
        line_end = tokenizer.encode("a\n", add_special_tokens=False)[-1]
        self.stop_ids = (line_end, *self.stop_ids)

    def _turns(
        self, messages: Sequence[Message], pictures: Iterator[SlicedImage], generation_prompt: bool
    ) -> Iterator[Piece | SlicedImage]:
        roles = [message.role for message in messages]
        if roles not in (["user"], ["user", "assistant"]):
            raise InputError(
                f"the turns are {', '.join(roles)}; the template 'pretrain' takes a picture and its caption: user, "
                "assistant. Use another template for conversations"
            )
        yield from pictures
        for message in messages[1:]:
            yield Piece(text_of(message), supervised=True)
            yield Piece("\n", fixed=True, supervised=True)


def template_for(tokenizer: PreTrainedTokenizerBase, name: str | None, system: str = SYSTEM) -> TinyLlavaTemplate:
    """The template of that name; without one, that whose answers end with the tokenizer's own token for it.

    Raises:
        InputError: the tokenizer lacks the token that ends answers.
    """
    if name == "pretrain":
        return PretrainTemplate(tokenizer)
    return TinyLlavaTemplate(tokenizer, ENDS[name] if name else str(tokenizer.eos_token), system)
