"""The tokenizer of a model folder, as its files describe it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.models.auto.tokenization_auto import tokenizer_class_from_name

from polylens.errors import InputError

CONFIG = "tokenizer_config.json"
CLASSES = {
    "tokenizer.json": "PreTrainedTokenizerFast",
    "tokenizer.model": "LlamaTokenizer",
    "vocab.json": "GPT2Tokenizer",
}
"""Files that hold a tokenizer, and the class that reads it where ``tokenizer_config.json`` names none."""

GENERIC = ("PreTrainedTokenizerFast", "TokenizersBackend")


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer that the folder's files describe; of their classes only those of transformers are used.

    Raises:
        InputError: the folder has none, or it cannot tell where in a text its tokens come from.
    """
    reader = _reader(folder)
    exact: dict[str, Any] = {"clean_up_tokenization_spaces": False}  # what comes back is what was said
    tokenizer = reader.from_pretrained(folder, **exact)
    if not tokenizer.is_fast:
        raise InputError(f"{folder}: transformers reads this tokenizer without places in the text; add tokenizer.json")
    if tokenizer.eos_token_id is None:
        raise InputError(f"{folder}: the tokenizer names no eos_token, with which answers end")
    return tokenizer


def _reader(folder: Path) -> Any:
    """The class that the files name. Remote classes only add attributes in published folders; they are never used."""
    present = [name for name in CLASSES if (folder / name).is_file()]
    if not present:
        raise InputError(
            f"{folder} has no tokenizer: it needs {' or '.join(CLASSES)}; copy them from the language model"
        )
    config = folder / CONFIG
    named = json.loads(config.read_text(encoding="utf-8")).get("tokenizer_class") if config.is_file() else None
    if named is None or named in GENERIC:
        named = CLASSES[present[0]]
    if named in GENERIC:
        return PreTrainedTokenizerFast
    found = tokenizer_class_from_name(named) or tokenizer_class_from_name(CLASSES[present[0]])
    if found is None:
        raise InputError(f"{config}: /tokenizer_class is {named!r}, which transformers does not have")
    return found
