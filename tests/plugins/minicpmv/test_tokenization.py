import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from polylens.errors import InputError
from polylens_minicpmv.family import PRESETS
from polylens_minicpmv.text.tokenization import load_tokenizer

PLUGIN = Path(__file__).parents[3] / "plugins" / "minicpmv"


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_any_text_comes_back(tiny, text):
    ids = tiny.tokenizer.encode(text, add_special_tokens=False)
    if not set(ids) & set(range(15)) and "▁" not in text:  # special tokens, and sentencepiece's own mark of a space
        assert tiny.tokenizer.decode(ids) == text


def test_special_tokens_of_the_preset(tiny):
    ids = tiny.tokenizer.encode("<unk></s><image></image><ref></ref><slice></slice>", add_special_tokens=False)
    assert ids == [0, 2, 3, 4, 5, 6, 13, 14]
    assert (tiny.tokenizer.bos_token_id, tiny.tokenizer.eos_token_id, tiny.tokenizer.pad_token_id) == (1, 2, 0)
    assert len(tiny.tokenizer) == tiny.config["vocab_size"]


def test_the_presets_are_what_their_program_builds(tmp_path):
    subprocess.run([sys.executable, str(PLUGIN / "make_tiny.py"), str(tmp_path)], check=True)
    made = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    assert len(made) == 10
    for path in made:
        assert path.read_bytes() == (PRESETS / path.relative_to(tmp_path)).read_bytes()


def test_a_folder_without_tokenizer_is_refused(tmp_path):
    with pytest.raises(InputError, match="has no tokenizer"):
        load_tokenizer(tmp_path, "2.0")


def test_missing_image_tokens_are_named(tmp_path, tiny):
    source = tiny.family.presets["tiny"]
    content = json.loads((source / "tokenizer.json").read_text(encoding="utf-8"))
    content["added_tokens"] = [token for token in content["added_tokens"] if "slice" not in token["content"]]
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    shutil.copy(source / "tokenizer_config.json", tmp_path)
    with pytest.raises(InputError, match=rf"{tmp_path} lacks <slice> </slice>;"):
        load_tokenizer(tmp_path, "2.0")


def test_remote_code_is_never_asked_for(tmp_path, tiny):
    source = tiny.family.presets["tiny"]
    shutil.copy(source / "tokenizer.json", tmp_path)
    config = json.loads((source / "tokenizer_config.json").read_text(encoding="utf-8"))
    config |= {"tokenizer_class": "LlamaTokenizerWrapper", "auto_map": {"AutoTokenizer": ["modeling.Wrapper", None]}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    assert load_tokenizer(tmp_path, "2.0").encode("<image>") == [1, 3]


TEXTS = [
    "<用户><image><unk><unk></image>\nHi there<AI>",
    "Look: <image><unk></image>\n what is it?",
    "  two  spaces\n\nand an end ",
    "描述这张图片。",
    "émoji 😀",
    "",
]


@pytest.mark.parametrize("text", TEXTS)
def test_both_files_of_the_original_give_the_same_ids(original, tmp_path, text):
    for name in ("tokenizer.model", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copyfile(original / "tokenizer" / name, tmp_path / name)
    fast, from_sentencepiece = load_tokenizer(original / "tokenizer", "2.0"), load_tokenizer(tmp_path, "2.0")
    assert from_sentencepiece.encode(text) == fast.encode(text)
    assert from_sentencepiece.decode(fast.encode(text)) == fast.decode(fast.encode(text))


def test_an_exclamation_mark_is_a_word_and_no_padding(later):
    tokenizer = later.tokenizer
    assert tokenizer.convert_ids_to_tokens(0) == "!"
    assert tokenizer.pad_token == {"2.5": "<|end_of_text|>", "2.6": "<|endoftext|>"}[later.version]
    ids = tokenizer.encode("Stop! Now!!\n!", add_special_tokens=False)
    assert tokenizer.decode(ids, skip_special_tokens=True) == "Stop! Now!!\n!"
    batch = later.batch([later.example("wow!!"), later.example("a longer text ! than the first")])
    assert batch.input_ids[0][batch.attention_mask[0]].tolist().count(0) == 2
    assert set(batch.input_ids[~batch.attention_mask].tolist()) == {tokenizer.pad_token_id}


def test_2_5_never_merges_the_word_that_its_files_pad_with(tiny25, golden):
    """The originals register it as a special token; so ids stay theirs."""
    source = golden / "minicpmv" / "minicpmv25" / "tokenizer"
    ours, theirs = load_tokenizer(source, "2.5"), PreTrainedTokenizerFast.from_pretrained(source)
    for text in ("wow!! so!\nyes !", "!", "a!b"):
        assert ours.encode(text) == theirs.encode(text)
        assert ours.decode(ours.encode(text), skip_special_tokens=True) == text


def test_2_6_reads_a_vocabulary_and_its_merges_too(golden, tmp_path):
    source = golden / "minicpmv" / "minicpmv26" / "tokenizer"
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        shutil.copyfile(source / name, tmp_path / name)
    whole, parts = load_tokenizer(source, "2.6"), load_tokenizer(tmp_path, "2.6")
    for text in ("<|im_start|>user\n<image><unk></image> Look!", "描述这张图片。", " two  spaces\n\n1234"):
        assert parts.encode(text) == whole.encode(text)


@pytest.mark.parametrize(("version", "needed"), [("2.5", "tokenizer.json"), ("2.6", "vocab.json with merges.txt")])
def test_what_a_later_version_needs_is_named(tmp_path, version, needed):
    with pytest.raises(InputError, match=needed):
        load_tokenizer(tmp_path, version)


def test_the_tokenizer_of_another_version_is_refused():
    with pytest.raises(InputError, match=r"lacks <\|im_start\|> <\|im_end\|> <image_id> </image_id>; MiniCPM-V 2\.6"):
        load_tokenizer(PRESETS / "tiny-2.5", "2.6")
