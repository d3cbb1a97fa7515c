"""Conversations as LLaVA reads them.

The original counts tokens of parts that it tokenises a second time, and masks a conversation as a whole where the
counts disagree; here targets follow from places of characters.
"""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase

from polylens.modeling.slot_templates import CaptionTemplate, ConversationTemplate
from polylens_llava_remgcl.options import LlavaOptions
from polylens_llava_remgcl.text.reference import ReferenceTokenizer
from polylens_llava_remgcl.text.styles import STYLES

START, END = "<im_start>", "<im_end>"
ADVICE = ", or take a smaller image_aspect_ratio (pad instead of anyres)"


def template_for(
    tokenizer: PreTrainedTokenizerBase, options: LlavaOptions, *, use_start_end: bool = False
) -> ConversationTemplate | CaptionTemplate:
    """The template that the options name, LLaVA 1.5's own by default.

    Args:
        use_start_end: whether every picture stands between ``<im_start>`` and ``<im_end>``.

    Raises:
        InputError: the tokenizer lacks a token that the template needs.
    """
    marks = (START, END) if use_start_end else ("", "")
    mode = options.compat.reference_ids
    places = None if mode is None else ReferenceTokenizer(tokenizer, mode)
    if options.template == "plain":
        return CaptionTemplate(tokenizer, "plain", advice=ADVICE, places=places)
    style = STYLES[options.template or "v1"]
    return ConversationTemplate(tokenizer, style, advice=ADVICE, places=places, marks=marks)
