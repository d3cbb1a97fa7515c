"""The tokenizers of the versions, each with its image tokens.

The files of the originals name remote classes that only add attributes; they are never loaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, normalizers
from transformers import LlamaTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast, Qwen2Tokenizer

from polylens.errors import InputError

IMAGE_START, IMAGE_END = "<image>", "</image>"
SLICE_START, SLICE_END = "<slice>", "</slice>"
ID_START, ID_END = "<image_id>", "</image_id>"


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """Tokens with a meaning of their own.

    Attributes:
        image: around pictures, their slices and their numbers.
        turns: where a sequence or a turn begins or ends.
        padding: what rows are filled up with, if the files name an ordinary word for it.
        slot: stands where a visual token goes.
    """

    image: tuple[str, ...]
    turns: tuple[str, ...]
    padding: str
    slot: str = "<unk>"


MINICPM = SpecialTokens((IMAGE_START, IMAGE_END, SLICE_START, SLICE_END), ("<s>", "</s>"), "</s>")
LLAMA3 = SpecialTokens(
    (IMAGE_START, IMAGE_END, SLICE_START, SLICE_END),
    ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    "<|end_of_text|>",
)
CHATML = SpecialTokens(
    (IMAGE_START, IMAGE_END, SLICE_START, SLICE_END, ID_START, ID_END),
    ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    "<|endoftext|>",
)

IMAGE_PAD = "<|image_pad|>"
NATIVE = SpecialTokens((*CHATML.image, IMAGE_PAD), CHATML.turns, CHATML.padding, slot=IMAGE_PAD)

OF_VERSION = {"2.0": MINICPM, "2.5": LLAMA3, "2.6": CHATML, "4.6": NATIVE, "4.7": NATIVE}
FILES = {
    "2.0": ("tokenizer.json", "tokenizer.model"),
    "2.5": ("tokenizer.json",),
    "2.6": ("tokenizer.json", "vocab.json with merges.txt"),
    "4.6": ("tokenizer.json",),
    "4.7": ("tokenizer.json",),
}


def load_tokenizer(folder: Path, version: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder: from ``tokenizer.json``, from sentencepiece's ``tokenizer.model`` (2.0) or from
    ``vocab.json`` and ``merges.txt`` (2.6).

    Raises:
        InputError: the folder has none of them, or the tokenizer lacks tokens of the version.
    """
    special = OF_VERSION[version]
    if (folder / "tokenizer.json").is_file():
        tokenizer = _from_json(folder, special)
    elif version == "2.0" and (folder / "tokenizer.model").is_file():
        tokenizer = _from_sentencepiece(folder)
    elif version == "2.6" and (folder / "vocab.json").is_file():
        tokenizer = Qwen2Tokenizer.from_pretrained(folder)
    else:
        files = " or ".join(FILES[version])
        raise InputError(f"{folder} has no tokenizer: it needs {files}")
    _require(tokenizer, folder, version)
    return tokenizer


def _from_json(folder: Path, special: SpecialTokens) -> PreTrainedTokenizerBase:
    """Where the files name an ordinary word as padding, as 2.5 names "!", transformers takes it for a special token
    and leaves it out of what it decodes. Here it stays a word, though one that is never merged with its neighbours:
    so the originals tokenise it."""
    exact: dict[str, Any] = {"clean_up_tokenization_spaces": False}  # what comes back is what was said
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, **exact)
    word = tokenizer.pad_token
    if word is None or tokenizer.backend_tokenizer.model.token_to_id(word) is None or word == special.slot:
        return tokenizer
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, pad_token=special.padding, **exact)
    tokenizer.add_tokens([AddedToken(word, normalized=False, special=False)])
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


def _require(tokenizer: PreTrainedTokenizerBase, folder: Path, version: str) -> None:
    vocabulary = tokenizer.get_vocab()
    special = OF_VERSION[version]
    needed = (special.slot, *special.turns, *special.image)
    missing = [token for token in needed if not _is_one_token(tokenizer, vocabulary, token)]
    if missing:
        raise InputError(
            f"the tokenizer in {folder} lacks {' '.join(missing)}; MiniCPM-V {version} needs its image tokens and "
            "those of its turns, each as one special token"
        )


def _is_one_token(tokenizer: PreTrainedTokenizerBase, vocabulary: dict[str, int], token: str) -> bool:
    return tokenizer.encode(token, add_special_tokens=False) == [vocabulary.get(token)]
