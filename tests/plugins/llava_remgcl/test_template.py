"""Tokens and targets of conversations."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from functools import cache
from typing import Any

import numpy as np
import pytest

from polylens.config.options import build_options
from polylens.contracts import IGNORE_INDEX, Crop, ImageRef, Message, SlicedImage
from polylens.errors import InputError
from polylens.modeling.tokenizers import load_tokenizer
from polylens_llava_remgcl.family import PRESETS
from polylens_llava_remgcl.options import LlavaCompat, LlavaOptions
from polylens_llava_remgcl.text.template import template_for

IMAGE = -200
PICTURE = ImageRef("bytes", b"")
SLICED = SlicedImage((8, 8), (Crop((8, 8), (0, 0, 8, 8), 1),), None, np.zeros((1, 4), np.float32))
FILES = {"legacy": "masks_remgcl_tf4.31_legacy.json", "nonlegacy": "masks_llavamain_tf4.37_nonlegacy.json"}
NOT_HERE = ("v0", "v0_mmtag")
UNTOLD = ("mpt",)
"""Its end is no token of Llama's vocabulary: the original masks every such conversation."""

load = cache(load_tokenizer)
ROLES: dict[str, Any] = {"human": "user", "gpt": "assistant"}


def turns(case: dict[str, Any]) -> list[Message]:
    said = case["after_multimodal"]
    kept = said[said[0]["from"] == "gpt" :]
    return [Message(ROLES[turn["from"]], parts(turn["value"])) for turn in kept]


def parts(text: str) -> tuple[str | ImageRef, ...]:
    for mark in ("<Image>", "</Image>", "<im_start>", "<im_end>"):
        text = text.replace(mark, "")
    return (PICTURE, text.replace("<image>", "").strip()) if "<image>" in text else (text,)


def encode(template, messages, **options):
    images = [SLICED for message in messages for part in message.parts if part is PICTURE]
    made = template.encode(messages, images, **options)
    pairs = zip(made.input_ids, made.visual_mask, strict=True)
    return [IMAGE if slot else token for token, slot in pairs], made.labels


@pytest.mark.parametrize("mode", FILES)
def test_reference_ids_are_those_of_the_original(original, mode):
    """Ids of every case, and targets of every case that the original does not lose."""
    cases = json.loads((original.folder / FILES[mode]).read_text(encoding="utf-8"))["cases"]
    tokenizer, compared = load(original.folder / "tiny-llava"), Counter()
    for case in cases:
        if case["template"] in (*NOT_HERE, *UNTOLD) or case["mm_use_im_start_end"]:
            continue
        template = template_for(tokenizer, LlavaOptions(case["template"], compat=LlavaCompat(mode)))
        ids, labels = encode(template, turns(case))
        assert ids == case["input_ids"], (case["template"], case["id"])
        compared["ids"] += 1
        if not case["stdout"]:
            assert labels == case["labels"], (case["template"], case["id"])
            compared["labels"] += 1
    assert compared == {"ids": 41, "labels": 38}


@pytest.mark.parametrize("mode", FILES)
def test_by_itself_the_tokenizer_differs_where_a_caption_begins_with_a_blank(original, tmp_path, mode):
    """transformers 4 had a token more there; ``legacy`` of the tokenizer is followed."""
    cases = json.loads((original.folder / FILES[mode]).read_text(encoding="utf-8"))["cases"]
    tokenizer, other = load_as(original.folder / "tiny-llava", tmp_path, legacy=mode == "legacy"), []
    for case in cases:
        if case["template"] in (*NOT_HERE, *UNTOLD) or case["mm_use_im_start_end"]:
            continue
        ids, labels = encode(template_for(tokenizer, LlavaOptions(case["template"])), turns(case))
        if ids != case["input_ids"] or not (case["stdout"] or labels == case["labels"]):
            other.append((case["template"], case["id"]))
    assert other == [("plain", "p3")]


def load_as(source, folder, *, legacy: bool):
    for name in ("tokenizer.model", "tokenizer_config.json"):
        shutil.copyfile(source / name, folder / name)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "legacy": legacy}))
    return load_tokenizer(folder)


def test_a_conversation_that_the_original_loses_is_taught(original):
    """Its question holds `` ASSISTANT: ``, where the original cuts turns apart."""
    tokenizer = load(original.folder / "tiny-llava")
    messages = [Message("user", (PICTURE, "Who says USER: hi ASSISTANT: yes?")), Message("assistant", ("It does.",))]
    _, labels = encode(template_for(tokenizer, LlavaOptions()), messages)
    assert tokenizer.decode([label for label in labels if label != IGNORE_INDEX]).strip() == "It does.</s>"


@pytest.fixture(scope="module")
def tokenizer():
    """The preset's, with the tokens that some templates need."""
    made = load_tokenizer(PRESETS / "tiny")
    made.add_special_tokens({"additional_special_tokens": ["<im_start>", "<im_end>", "<|im_start|>", "<|im_end|>"]})
    return made


TALK = [
    Message("user", (PICTURE, "What?  ")),
    Message("assistant", ("This.",)),
    Message("user", ("And?",)),
    Message("assistant", ("No.",)),
]
SAYS = {
    "v1": "{system} USER: #\nWhat? ASSISTANT: This.</s>USER: And? ASSISTANT: No.</s>",
    "llava_v1": "{system} USER: #\nWhat? ASSISTANT: This.</s>USER: And? ASSISTANT: No.</s>",
    "v1_mmtag": "{system} USER: <Image>#</Image>\nWhat? ASSISTANT: This.</s>USER: And? ASSISTANT: No.</s>",
    "llama_2": "[INST] <<SYS>>\n{system}\n<</SYS>>\n\n#\nWhat? [/INST] This. </s><s>[INST] And? [/INST] No. </s>",
    "mistral_instruct": "[INST] #\nWhat? [/INST] This. </s>[INST] And? [/INST] No. </s>",
    "mpt": "<|im_start|>system\n{system}<|im_end|><|im_start|>user\n#\nWhat?<|im_end|><|im_start|>assistant\nThis."
    "<|im_end|><|im_start|>user\nAnd?<|im_end|><|im_start|>assistant\nNo.<|im_end|>",
}


@pytest.mark.parametrize("name", [*SAYS, "chatml"])
def test_conversations_as_text(tokenizer, name):
    template = template_for(tokenizer, LlavaOptions(name))
    ids, labels = encode(template, TALK)
    text = tokenizer.decode([IMAGE_SHOWN if token == IMAGE else token for token in ids[1:]])
    expected = SAYS.get(name, SAYS["mpt"]).format(system=template.style.default_system)
    assert text == expected.replace("#", tokenizer.decode([IMAGE_SHOWN]))
    end = template.style.end
    taught = tokenizer.decode([label for label in labels if label != IGNORE_INDEX])
    assert taught.replace(" ", "") == f"This.{end}No.{end}"
    prompt, _ = encode(template, TALK[:3], generation_prompt=True)
    assert ids[: len(prompt)] == prompt
    assert ids[len(prompt) :] == [label for label in labels if label != IGNORE_INDEX][-len(ids) + len(prompt) :]


IMAGE_SHOWN = 5
"""Any token, to see where a picture stands."""


def test_a_system_turn_takes_the_place_of_the_default(tokenizer):
    own = [Message("system", ("Be brief.",)), *TALK[2:3]]
    for name, said in (("v1", "Be brief. USER: And?"), ("llama_2", "[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nAnd?")):
        ids, _ = encode(template_for(tokenizer, LlavaOptions(name)), own)
        assert tokenizer.decode(ids[1:]) == said


def test_pictures_between_their_own_tokens(tokenizer):
    ids, labels = encode(template_for(tokenizer, LlavaOptions(), use_start_end=True), TALK)
    place = ids.index(IMAGE)
    assert tokenizer.convert_ids_to_tokens([ids[place - 1], ids[place + 1]]) == ["<im_start>", "<im_end>"]
    assert labels[place - 1 : place + 2] == [IGNORE_INDEX] * 3
    with pytest.raises(InputError, match="the tokenizer has no token '<im_start>'"):
        template_for(load(PRESETS / "tiny"), LlavaOptions(), use_start_end=True)


def test_the_first_stage_is_a_picture_and_its_caption(tokenizer):
    template = template_for(tokenizer, LlavaOptions("plain"), use_start_end=True)
    ids, labels = encode(template, TALK[:2])
    assert (ids[0], ids[1]) == (tokenizer.bos_token_id, IMAGE)
    assert tokenizer.decode(ids[2:]) == "This.\n"
    assert labels == [IGNORE_INDEX] * 2 + ids[2:]
    assert ids[-1] in template.stop_ids
    assert encode(template, TALK[:1], generation_prompt=True)[0] == ids[:2]
    with pytest.raises(InputError, match="'plain' takes a picture and its caption"):
        encode(template, TALK)


def test_what_cannot_be_written_is_refused(tokenizer):
    with pytest.raises(InputError, match=r"template.*'v2'"):
        build_options(LlavaOptions, {"template": "v2"}, "model family 'llava'")
    with pytest.raises(InputError, match=r"the tokenizer has no token '<\|im_end\|>'"):
        template_for(load(PRESETS / "tiny"), LlavaOptions("chatml"))
    with pytest.raises(InputError, match=r"needs the sentencepiece model .*tokenizer.model is not there"):
        template_for(load(PRESETS / "tiny"), LlavaOptions(compat=LlavaCompat("legacy")))
    with pytest.raises(InputError, match="pictures are given as parts"):
        encode(template_for(tokenizer, LlavaOptions()), [Message("user", ("an <image>",))])
