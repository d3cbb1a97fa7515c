"""The template of MiniCPM-V 2.6."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

from transformers import PreTrainedTokenizerBase

from polylens.contracts import Message, SlicedImage
from polylens.modeling.segments import Piece, Segment
from polylens_minicpmv.text.placeholders import bare, numbered
from polylens_minicpmv.text.tokenization import CHATML, IMAGE_END, IMAGE_START, SLICE_END, SLICE_START
from polylens_minicpmv.text.turns import HeaderTemplate

EOS, START, END = CHATML.turns
SYSTEM = "You are a helpful assistant."


class ChatMLTemplate(HeaderTemplate):
    """ChatML, as Qwen2 writes it, with its system turn where a conversation has none.

    ``plain`` is the parts as they are. Every picture is numbered, as the published model's ``chat`` does; the original
    fine-tuning numbers those alone that are sliced.

    Args:
        use_image_id: whether pictures are numbered.
    """

    name = "MiniCPM-V 2.6"
    special = CHATML
    refused = (*CHATML.image, *CHATML.turns)
    starts = (IMAGE_START, SLICE_START)
    ends = (IMAGE_END, SLICE_END)
    end = END
    gap = "\n"

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, *, original_targets: bool = False, use_image_id: bool = True
    ) -> None:
        super().__init__(tokenizer, original_targets=original_targets)
        self.use_image_id = use_image_id
        self.stop_ids = (self._ids[END], self._ids[EOS])

    def header(self, role: str) -> str:
        return f"{START}{role}\n"

    def _pictures(self, images: Sequence[SlicedImage]) -> list[str]:
        numbers = count()
        named = [numbered(next(numbers)) if self._has_number(image) else "" for image in images]
        return self._spaced([name + bare(image, self.special.slot) for name, image in zip(named, images, strict=True)])

    def _has_number(self, image: SlicedImage) -> bool:
        return self.use_image_id and (image.grid is not None or not self.original_targets)

    def _turns(self, messages: Sequence[Message], pieces: list[list[Piece]], generation_prompt: bool) -> list[Segment]:
        if messages[0].role != "system":
            messages = [Message("system", (SYSTEM,)), *messages]
            pieces = [[Piece(SYSTEM, fixed=True)], *pieces]
        return self._given_turns(messages, pieces, generation_prompt)
