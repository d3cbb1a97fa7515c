"""The tokenizer of MiniCPM-V 2.0: a Llama tokenizer with image tokens.

The files of the original name a remote class that only adds attributes; it is never loaded.
"""

from __future__ import annotations

from pathlib import Path

from tokenizers import normalizers
from transformers import LlamaTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from polylens.errors import InputError

BOS, EOS = "<s>", "</s>"
IMAGE_START, IMAGE_END = "<image>", "</image>"
SLICE_START, SLICE_END = "<slice>", "</slice>"
SLOT = "<unk>"
"""Stands where a visual token goes."""

IMAGE_TOKENS = (IMAGE_START, IMAGE_END, SLICE_START, SLICE_END)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder, from ``tokenizer.json`` or from sentencepiece's ``tokenizer.model``.

    Raises:
        InputError: the folder has neither, or the tokenizer lacks image tokens.
    """
    if (folder / "tokenizer.json").is_file():
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    elif (folder / "tokenizer.model").is_file():
        tokenizer = _from_sentencepiece(folder)
    else:
        raise InputError(f"{folder} has no tokenizer: neither tokenizer.json nor tokenizer.model is there")
    _require_image_tokens(tokenizer, folder)
    return tokenizer


def _from_sentencepiece(folder: Path) -> PreTrainedTokenizerBase:
    """In ``legacy`` files every piece of text between special tokens gets a leading space of its own, and spaces that
    are there already do not count for it; transformers 5 has only the newer rule."""
    tokenizer = LlamaTokenizer.from_pretrained(folder)
    if tokenizer.legacy:
        backend = tokenizer.backend_tokenizer
        backend.pre_tokenizer = None  # type: ignore[assignment]
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])  # type: ignore[assignment]
    return tokenizer


def _require_image_tokens(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    vocabulary = tokenizer.get_vocab()
    needed = (SLOT, BOS, EOS, *IMAGE_TOKENS)
    missing = [token for token in needed if not _is_one_token(tokenizer, vocabulary, token)]
    if missing:
        raise InputError(
            f"the tokenizer in {folder} lacks {' '.join(missing)}; MiniCPM-V 2.0 needs its image tokens, each as one "
            "special token"
        )


def _is_one_token(tokenizer: PreTrainedTokenizerBase, vocabulary: dict[str, int], token: str) -> bool:
    return tokenizer.encode(token, add_special_tokens=False) == [vocabulary.get(token)]
