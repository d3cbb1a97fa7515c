"""Build the tokenizers of the presets ``tiny``, ``tiny-2.5`` and so on from ``tiny_corpus.txt``.

    python plugins/minicpmv/make_tiny.py [FOLDER]

The same corpus gives the same files. As in the published tokenizers, any text comes back as it was: byte-pair merges
with byte fallback in 2.0, over bytes in later versions, where the first token is "!".
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

HERE = Path(__file__).parent
PRESETS = HERE / "polylens_minicpmv" / "presets"
VOCABULARY = 2048
PAIRS = ("image", "ref", "box", "quad", "point", "slice")
TAGS = [tag for name in PAIRS for tag in (f"<{name}>", f"</{name}>")]
SPECIAL = ["<unk>", "<s>", "</s>", *TAGS]
LLAMA3 = ["<|begin_of_text|>", "<|end_of_text|>", "<unk>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
CHATML = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *TAGS, "<image_id>", "</image_id>", "<unk>"]
NATIVE = [*(token for token in CHATML if token != "<unk>"), "<|image_pad|>", "<|video_pad|>"]
BYTES = [f"<0x{value:02X}>" for value in range(256)]
ROLES = ["system\nuser\nassistant\n"] * 40
"""Names that are one token each."""

WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,DIGITS}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
"""How Llama 3 (up to three digits) and Qwen2 (one) cut text before merging."""


def corpus() -> list[str]:
    return (HERE / "tiny_corpus.txt").read_text(encoding="utf-8").splitlines()


def normalizer() -> normalizers.Normalizer:
    return normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])


def merges() -> tuple[list[str], list[tuple[str, str]]]:
    """Tokens (characters first) and merges that the corpus gives; merges stay inside words."""
    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizer()
    trained.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex("▁"), "merged_with_next"),
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.Punctuation("isolated"),
        ]
    )
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY - len(SPECIAL) - len(BYTES), show_progress=False)
    trained.train_from_iterator(corpus(), trainer)
    return _learned(trained)


def _learned(tokenizer: Tokenizer) -> tuple[list[str], list[tuple[str, str]]]:
    model = json.loads(tokenizer.to_str())["model"]
    return sorted(model["vocab"], key=model["vocab"].get), [(left, right) for left, right in model["merges"]]


def build() -> PreTrainedTokenizerFast:
    """The tokenizer of 2.0."""
    tokens, pairs = merges()
    vocabulary = {token: index for index, token in enumerate([*SPECIAL, *BYTES, *tokens])}
    backend = Tokenizer(models.BPE(vocabulary, pairs, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    backend.normalizer = normalizer()
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.post_processor = processors.TemplateProcessing("<s> $A", "<s> $A <s> $B", [("<s>", 1)])
    backend.add_special_tokens(SPECIAL)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<unk>"
    )


def build_bytewise(special: list[str], digits: int, **roles: str) -> PreTrainedTokenizerFast:
    """A tokenizer over bytes, special tokens last; ``roles`` names those that transformers has names for."""
    words = Regex(WORDS.replace("DIGITS", str(digits)))
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(words, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    size = VOCABULARY - len(special)
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator([*corpus(), *ROLES], trainer)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(special)
    return PreTrainedTokenizerFast(tokenizer_object=backend, **roles)


def main(folder: Path) -> None:
    build().save_pretrained(folder / "tiny")
    llama3 = build_bytewise(
        [*LLAMA3, *TAGS], 3, bos_token="<|begin_of_text|>", eos_token="<|end_of_text|>", unk_token="<unk>"
    )
    llama3.save_pretrained(folder / "tiny-2.5")
    _pad_with_a_word(folder / "tiny-2.5" / "tokenizer_config.json")
    chatml = build_bytewise(
        CHATML, 1, bos_token="<|im_start|>", eos_token="<|im_end|>", unk_token="<unk>", pad_token="<|endoftext|>"
    )
    chatml.save_pretrained(folder / "tiny-2.6")
    native = build_bytewise(NATIVE, 1, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    for version in ("4.6", "4.7"):
        native.save_pretrained(folder / f"tiny-{version}")


def _pad_with_a_word(path: Path) -> None:
    """As the published files of 2.5 say it."""
    config = json.loads(path.read_text(encoding="utf-8")) | {"pad_token": "!"}
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else PRESETS)
