"""The template of versions 4.6 and 4.7."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from polylens.contracts import Message
from polylens.modeling.segments import Piece, Segment
from polylens_minicpmv.text.chatml import ChatMLTemplate
from polylens_minicpmv.text.tokenization import NATIVE

PROBE = [{"role": "user", "content": "probe"}]


class NativeTemplate(ChatMLTemplate):
    """ChatML without a system turn of its own.

    What stands before an answer is what the checkpoint's own chat template puts there for generation without thinking
    (such as an empty block of thoughts), and before every answer of a conversation, so that a prompt is the beginning
    of what was trained.
    """

    name = "MiniCPM-V 4.6"
    special = NATIVE
    refused = (*NATIVE.image, *NATIVE.turns)

    def header(self, role: str) -> str:
        return super().header(role) + (self._thoughts if role == "assistant" else "")

    def _turns(self, messages: Sequence[Message], pieces: list[list[Piece]], generation_prompt: bool) -> list[Segment]:
        return self._given_turns(messages, pieces, generation_prompt)

    @cached_property
    def _thoughts(self) -> str:
        """What the checkpoint's chat template adds to the header of an answer."""
        if not self.tokenizer.chat_template:
            return ""
        options: dict[str, Any] = {"tokenize": False, "enable_thinking": False}
        whole = str(self.tokenizer.apply_chat_template(PROBE, add_generation_prompt=True, **options))
        return whole.rpartition(super().header("assistant"))[2]
