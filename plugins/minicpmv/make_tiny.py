"""Build the tokenizer of the preset ``tiny`` from ``tiny_corpus.txt``.

    python plugins/minicpmv/make_tiny.py [FOLDER]

The same corpus gives the same file. Byte-pair merges with byte fallback, as in the published tokenizer: any text comes
back as it was.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

HERE = Path(__file__).parent
PRESET = HERE / "polylens_minicpmv" / "presets" / "tiny"
VOCABULARY = 2048
PAIRS = ("image", "ref", "box", "quad", "point", "slice")
SPECIAL = ["<unk>", "<s>", "</s>", *(tag for name in PAIRS for tag in (f"<{name}>", f"</{name}>"))]
BYTES = [f"<0x{value:02X}>" for value in range(256)]


def normalizer() -> normalizers.Normalizer:
    return normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])


def merges() -> tuple[list[str], list[list[str]]]:
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
    trained.train_from_iterator((HERE / "tiny_corpus.txt").read_text(encoding="utf-8").splitlines(), trainer)
    model = json.loads(trained.to_str())["model"]
    return sorted(model["vocab"], key=model["vocab"].get), model["merges"]


def build() -> PreTrainedTokenizerFast:
    tokens, pairs = merges()
    vocabulary = {token: index for index, token in enumerate([*SPECIAL, *BYTES, *tokens])}
    joined = [(left, right) for left, right in pairs]
    backend = Tokenizer(models.BPE(vocabulary, joined, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    backend.normalizer = normalizer()
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.post_processor = processors.TemplateProcessing("<s> $A", "<s> $A <s> $B", [("<s>", 1)])
    backend.add_special_tokens(SPECIAL)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<unk>"
    )


if __name__ == "__main__":
    build().save_pretrained(Path(sys.argv[1]) if len(sys.argv) > 1 else PRESET)
