"""Build the tokenizers of the presets from ``tiny_corpus.txt``.

    python plugins/tinyllava/make_tiny.py [FOLDER]

The same corpus gives the same files. Byte-pair merges over bytes; in ``tiny`` each of the frequent characters of Big5
(its first level, 5401 of them) is one token, so that a small model can learn to read Chinese.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

HERE = Path(__file__).parent
PRESETS = HERE / "polylens_tinyllava" / "presets"
ENGLISH = 640
"""Bytes, and merges that the corpus gives."""

FREQUENT = (range(0xA4, 0xC7), (*range(0x40, 0x7F), *range(0xA1, 0xFF)))
"""First and second bytes of Big5's first level."""

PUNCTUATION = "，。、；：？！「」『』（）《》…—～．‧　０１２３４５６７８９"
END = "<|endoftext|>"
WORDS = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
"""How Qwen2 cuts text before merging."""


def characters() -> list[str]:
    """The frequent characters, as Big5 sorts them."""
    found = list(PUNCTUATION)
    for first in FREQUENT[0]:
        for second in FREQUENT[1]:
            try:
                found.append(bytes([first, second]).decode("big5"))
            except UnicodeDecodeError:
                continue
    return found


def learned() -> tuple[list[str], list[tuple[str, str]]]:
    """Tokens and merges of the corpus."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = cut()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=ENGLISH, initial_alphabet=alphabet, show_progress=False)
    trained.train_from_iterator((HERE / "tiny_corpus.txt").read_text(encoding="utf-8").splitlines(), trainer)
    model = json.loads(trained.to_str())["model"]
    return sorted(model["vocab"], key=model["vocab"].get), [(left, right) for left, right in model["merges"]]


def cut() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def with_characters(tokens: list[str], merges: list[tuple[str, str]]) -> tuple[list[str], list[tuple[str, str]]]:
    """Two merges make a character of its three bytes: the first two become one token, and the third joins them."""
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    spelled = [level.pre_tokenize_str(character)[0][0] for character in characters()]
    begun = dict.fromkeys((letters[0], letters[1]) for letters in spelled)
    merges = [*merges, *begun, *((letters[:-1], letters[-1]) for letters in spelled if len(letters) > 2)]
    return list(dict.fromkeys([*tokens, *map("".join, begun), *spelled])), list(dict.fromkeys(merges))


def build(
    tokens: list[str], merges: list[tuple[str, str]], special: list[str], **roles: str
) -> PreTrainedTokenizerFast:
    """A tokenizer whose special tokens come last; ``roles`` names those that transformers has names for."""
    backend = Tokenizer(models.BPE({token: number for number, token in enumerate(tokens)}, merges))
    backend.pre_tokenizer = cut()
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(special)
    return PreTrainedTokenizerFast(tokenizer_object=backend, **roles)


def main(folder: Path) -> None:
    tokens, merges = learned()
    chinese = build(*with_characters(tokens, merges), [END], eos_token=END, pad_token=END)
    chinese.save_pretrained(folder / "tiny")
    build(tokens, merges, [END], eos_token=END, bos_token=END).save_pretrained(folder / "tiny-phi")
    hf = build(tokens, merges, ["<unk>", "</s>", "<image>"], eos_token="</s>", unk_token="<unk>", pad_token="<unk>")
    hf.save_pretrained(folder / "tiny-hf")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else PRESETS)
