"""Tokens and targets of conversations."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from polylens.contracts import IGNORE_INDEX, Crop, ImageRef, Message, SlicedImage
from polylens.errors import InputError
from polylens.modeling.tokenizers import load_tokenizer
from polylens_tinyllava.family import PRESETS
from polylens_tinyllava.text.template import SYSTEM, template_for

IMAGE = -200
PICTURE = ImageRef("bytes", b"")
SLICED = SlicedImage((8, 8), (Crop((8, 8), (0, 0, 8, 8), 1),), None, np.zeros((1, 4), np.float32))
SEVERAL = ("multi_turn", "text_only")
"""Conversations that the original writes into a pretraining sample although it cannot train on them."""

load = cache(load_tokenizer)


def messages(conversation: list[dict[str, str]]) -> list[Message]:
    """The original drops a first turn that is not the user's, and all placeholders but one of a turn."""
    kept = conversation[conversation[0]["from"] == "gpt" :]
    roles = {"human": "user", "gpt": "assistant"}
    return [Message(roles[turn["from"]], parts(turn["value"])) for turn in kept]


def parts(text: str) -> tuple[str | ImageRef, ...]:
    return (PICTURE, text.replace("<image>", "")) if "<image>" in text else (text,)


def encode(template, turns, **options):
    images = [SLICED for turn in turns for part in turn.parts if part is PICTURE]
    made = template.encode(turns, images, **options)
    return [
        IMAGE if slot else token for token, slot in zip(made.input_ids, made.visual_mask, strict=True)
    ], made.labels


def groups(golden: Path) -> list[dict]:
    return json.loads((golden / "tinyllava" / "text" / "templates.json").read_text(encoding="utf-8"))


def test_tokens_and_targets_are_those_of_the_original(golden):
    compared = 0
    for group in groups(golden):
        template = template_for(load(golden / "tinyllava" / "models" / group["tokenizer"]), group["template"])
        pretraining = group["template"] == "pretrain"
        for name, case in group["cases"].items():
            blank_first = name == "image_at_end" and group["tokenizer"] == "tiny-tinyllama"
            if pretraining and (name in SEVERAL or blank_first):
                continue
            turns, where = messages(case["messages"]), (group["template"], group["tokenizer"], name)
            ids, labels = encode(template, turns)
            assert ids == case["input_ids"], where
            if not case["tokenization_mismatch_warning"]:
                assert labels == case["labels"], where
            if not pretraining:
                assert encode(template, turns[:-1], generation_prompt=True)[0] == case["input_ids_eval"], where
            compared += 1
    assert compared == 87


def test_an_answer_that_quotes_the_prompt_is_taught(golden):
    """The original loses such a conversation."""
    folder, quote = golden / "tinyllava" / "models" / "phi-2-tokenizer", "He wrote USER: hi ASSISTANT: yo"
    tokenizer = load(folder)
    turns = [Message("user", (PICTURE, "\nQuote the prompt.")), Message("assistant", (quote,))]
    _, labels = encode(template_for(tokenizer, "phi"), turns)
    taught = [label for label in labels if label != IGNORE_INDEX]
    assert tokenizer.decode(taught) == f" {quote}<|endoftext|>"


def test_the_prompt_of_the_published_checkpoint(golden):
    """Dumped from tinyllava/TinyLLaVA-Phi-2-SigLIP-3.1B by others."""
    folder = golden / "tinyllava"
    published = json.loads((folder / "text" / "hub_phi2_prompt.json").read_text(encoding="utf-8"))
    template = template_for(load(folder / "models" / "phi-2-tokenizer"), None)
    assert encode(template, messages(published["messages"]), generation_prompt=True)[0] == published["input_ids"]
    assert template.stop_ids == (published["last_generated_id"],)


@pytest.fixture(scope="module")
def tokenizer():
    return load(PRESETS / "tiny")


@pytest.fixture(scope="module")
def template(tokenizer):
    return template_for(tokenizer, None)


ASK, SAY = Message("user", (PICTURE, "\nWhat?  ")), Message("assistant", ("這",))


def test_a_conversation_as_text(template, tokenizer):
    ids, labels = encode(template, [ASK, SAY, Message("user", ("And?",)), Message("assistant", ("No.",))])
    text = tokenizer.decode([tokenizer.eos_token_id if token == IMAGE else token for token in ids])
    end = "<|endoftext|>"
    assert text == f"{SYSTEM} USER: {end}\nWhat? ASSISTANT: 這{end}USER: And? ASSISTANT: No.{end}"
    assert tokenizer.decode([label for label in labels if label != IGNORE_INDEX]) == f" 這{end} No.{end}"


def test_a_system_turn_takes_the_place_of_the_default(template, tokenizer):
    ids, _ = encode(template, [Message("system", ("Be brief.",)), Message("user", ("Hi",))], generation_prompt=True)
    assert tokenizer.decode(ids) == "Be brief. USER: Hi ASSISTANT:"


def test_pretraining_is_a_picture_and_its_caption(tokenizer):
    template = template_for(tokenizer, "pretrain")
    ids, labels = encode(template, [ASK, SAY])
    assert ids[0] == IMAGE
    assert tokenizer.decode(ids[1:]) == "這\n"
    assert labels == [IGNORE_INDEX, *ids[1:]]
    assert ids[-1] in template.stop_ids
    assert encode(template, [ASK], generation_prompt=True)[0] == [IMAGE]
    with pytest.raises(InputError, match="'pretrain' takes a picture and its caption"):
        encode(template, [ASK, SAY, ASK, SAY])


def test_a_shortened_answer_does_not_teach_to_stop(template, tokenizer):
    turns = [Message("user", ("Why?",)), Message("assistant", ("because " * 40,))]
    whole, _ = encode(template, turns)
    ids, labels = encode(template, turns, max_length=len(whole) - 30)
    assert len(ids) == len(whole) - 30
    assert ids[-1] == tokenizer.eos_token_id
    assert labels[-1] == IGNORE_INDEX
    assert labels[-2] == ids[-2]


@pytest.mark.parametrize(
    ("turns", "problem"),
    [
        ([Message("user", ("a </s> <|endoftext|>",))], "has a meaning of its own"),
        ([Message("user", ("an <image>",))], "pictures are given as parts"),
        ([SAY], "must be user, assistant"),
        ([Message("user", ("a",)), Message("assistant", (PICTURE,))], "reads pictures in user turns"),
    ],
)
def test_what_cannot_be_written_is_refused(template, turns, problem):
    with pytest.raises(InputError, match=problem):
        encode(template, turns)


def test_a_template_needs_its_end_token(tokenizer):
    with pytest.raises(InputError, match="no token '<\\|im_end\\|>'"):
        template_for(tokenizer, "qwen2_instruct")


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"has no tokenizer: it needs tokenizer.json"):
        load_tokenizer(tmp_path)
