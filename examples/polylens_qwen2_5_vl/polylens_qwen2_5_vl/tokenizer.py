"""The byte-level BPE tokenizer of a checkpoint folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from polylens.errors import InputError

VISION_START = "<|vision_start|>"
VISION_END = "<|vision_end|>"
IMAGE_PAD = "<|image_pad|>"
TURN_START = "<|im_start|>"
TURN_END = "<|im_end|>"
TEXT_END = "<|endoftext|>"
SPECIAL = (VISION_START, VISION_END, IMAGE_PAD, TURN_START, TURN_END, TEXT_END)


def read_tokenizer(source: Path) -> Any:
    """The tokenizer of the folder.

    Raises:
        InputError: the folder has none, or one without the special tokens of the family.
    """
    if not any((source / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        raise InputError(f"{source}: no tokenizer here; Qwen2.5-VL needs tokenizer.json, or vocab.json and merges.txt")
    tokenizer = AutoTokenizer.from_pretrained(source)
    known = tokenizer.get_vocab()
    missing = [token for token in SPECIAL if token not in known]
    if missing:
        raise InputError(f"{source}: the tokenizer lacks {', '.join(missing)}; it is not one of Qwen2.5-VL")
    return tokenizer
