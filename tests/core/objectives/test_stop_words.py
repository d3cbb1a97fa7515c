"""Stop words as token ids: found as exact integers, in a tokenizer's own forms."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import polylens
from polylens.errors import InputError
from polylens.objectives.stop_words import StopWords, words_of

ids = st.integers(0, 5)


@given(st.lists(st.lists(ids, min_size=1, max_size=4), max_size=6), st.lists(st.integers(-100, 6), max_size=12))
def test_finds_what_a_loop_finds(words, text):
    wanted = [False] * len(text)
    for word in words:
        for start in range(len(text) - len(word) + 1):
            if text[start : start + len(word)] == word:
                wanted[start : start + len(word)] = [True] * len(word)
    assert StopWords(words).found(torch.tensor([text], dtype=torch.long))[0].tolist() == wanted


def test_large_ids_are_exact():
    """Where a convolution in float32 rounds: neighbours of ids beyond 2^24."""
    words = StopWords([[2**40, 2**24 + 1, 2**24 + 3]])
    near = torch.tensor([[2**40, 2**24, 2**24 + 3], [2**40, 2**24 + 1, 2**24 + 3]])
    assert words.found(near).all(dim=1).tolist() == [False, True]


@pytest.mark.parametrize("plugin", ["minicpmv", "tinyllava", "qwen2_5_vl"])
def test_words_are_found_in_text_and_within_no_other_word(plugin):
    tokenizer = polylens.load(plugin, "tiny").checkpoint.tokenizer
    words = StopWords.of_words(["the", "of"], tokenizer)

    def kept(text: str) -> str:
        found = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])
        return tokenizer.decode(found[0][~words.found(found)[0]])

    assert "".join(kept("The wheel of the bus").split()) == "wheelbus"
    assert "".join(kept("a soft breathe").split()) == "asoftbreathe"


def test_a_language_has_words_and_signs():
    words = words_of("english")
    assert {"the", "of", ",", "."} <= set(words)
    assert "wheel" not in words


def test_a_file_has_a_word_in_each_line(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("# mine\nwheel\n\nbus \n", encoding="utf-8-sig")
    assert words_of(str(path)) == ["wheel", "bus"]


def test_a_file_in_another_encoding_is_refused(tmp_path):
    path = tmp_path / "words.txt"
    path.write_bytes("wheel\nfür\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"words\.txt:2: stop words must be in UTF-8"):
        words_of(str(path))


def test_a_file_without_words_is_refused(tmp_path):
    (tmp_path / "words.txt").write_text("# nothing\n")
    with pytest.raises(InputError, match="there is no stop word in it"):
        words_of(str(tmp_path / "words.txt"))
