"""Build the tokenizers of the presets from ``tiny_corpus.txt``.

    python plugins/llava_remgcl/make_tiny.py [FOLDER]

The same corpus gives the same files: byte-pair merges over bytes, and Llama's special tokens before and after a text.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

HERE = Path(__file__).parent
PRESETS = HERE / "polylens_llava_remgcl" / "presets"
SIZE = 640
SPECIAL = ["<unk>", "<s>", "</s>"]


def build(*more: str) -> PreTrainedTokenizerFast:
    """The tokenizer; further special tokens come last."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=SIZE, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator((HERE / "tiny_corpus.txt").read_text(encoding="utf-8").splitlines(), trainer)
    backend.add_special_tokens(list(more))
    begin = backend.token_to_id("<s>")
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", begin)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<unk>"
    )


def main(folder: Path) -> None:
    build().save_pretrained(folder / "tiny")
    build("<image>").save_pretrained(folder / "tiny-hf")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else PRESETS)
