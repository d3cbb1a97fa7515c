"""Conversations as TinyLLaVA reads them.

The original tokenises parts of a conversation a second time to count their tokens, and loses those for which both
disagree; here targets follow from places of characters.
"""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase

from polylens.modeling.slot_templates import CaptionTemplate, ConversationTemplate, Style

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


def template_for(
    tokenizer: PreTrainedTokenizerBase, name: str | None, system: str = SYSTEM
) -> ConversationTemplate | CaptionTemplate:
    """The template of that name; without one, that whose answers end with the tokenizer's own token for it.

    ``{system} USER: <image>\\n{question} ASSISTANT: {answer}{end}USER: {question} ...``; ``pretrain``, of the first
    stage, is ``<image>{caption}\\n``.

    Args:
        system: what a conversation begins with, unless it has a system turn of its own.

    Raises:
        InputError: the tokenizer lacks the token that ends answers.
    """
    if name == "pretrain":
        return CaptionTemplate(tokenizer, name, advice=ADVICE)
    end = ENDS[name] if name else str(tokenizer.eos_token)
    style = Style(system, ("", " "), ("USER: ", " ASSISTANT:"), (" ", ""), end)
    return ConversationTemplate(tokenizer, style, advice=ADVICE)
