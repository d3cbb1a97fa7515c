"""TinyLLaVA in the layout of transformers' LLaVA, compared with transformers' own class."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlavaConfig
from transformers import LlavaForConditionalGeneration as Theirs

from polylens.contracts import ImageRef, Message, Record
from polylens.data.images import ImageOpener
from polylens.engine.loading import load_checkpoint
from polylens.engine.saving import save_model_folder
from polylens.testing.subject import encoded, picture
from polylens_tinyllava.family import PRESETS


@pytest.fixture(scope="module")
def theirs():
    values = json.loads((PRESETS / "tiny-hf" / "config.json").read_text(encoding="utf-8"))
    torch.manual_seed(0)
    return Theirs(LlavaConfig(**values)).eval()


@pytest.fixture
def folder(theirs, tmp_path):
    """What transformers writes."""
    theirs.save_pretrained(tmp_path / "theirs")
    shutil.copytree(PRESETS / "tiny-hf", tmp_path / "theirs", dirs_exist_ok=True)
    return tmp_path / "theirs"


@torch.no_grad()
def test_logits_are_those_of_transformers(theirs, folder):
    found = load_checkpoint("tinyllava", str(folder))
    parts: tuple[str | ImageRef, ...] = (encoded(picture(90, 60)), "\nWhat is it?")
    example = found.preparer(ImageOpener(), style="chat").example(Record("0", (Message("user", parts),)))
    batch = found.collator()([example])
    ours = found.model.eval()(batch, outputs={"logits"}).logits
    ids = batch.input_ids.masked_fill(batch.visual_mask, theirs.config.image_token_index)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (found.preprocessor.mean, found.preprocessor.std))
    pixels = (torch.stack(batch.pixels) / 255 - mean) / std
    expected = theirs(input_ids=ids, attention_mask=batch.attention_mask.long(), pixel_values=pixels).logits[0]
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


def test_names_on_disk_are_the_published_ones_and_transformers_reads_them(theirs, folder, tmp_path):
    found = load_checkpoint("tinyllava", str(folder))
    save_model_folder(found, tmp_path / "ours", found.card)
    names = set(load_file(tmp_path / "ours" / "model.safetensors"))
    assert {name.partition(".")[0] for name in names} == {"language_model", "vision_tower", "multi_modal_projector"}
    assert {
        "language_model.model.layers.0.self_attn.q_proj.weight",
        "language_model.lm_head.weight",
        "vision_tower.vision_model.embeddings.class_embedding",
        "vision_tower.vision_model.encoder.layers.2.mlp.fc1.weight",
        "multi_modal_projector.linear_1.weight",
    } <= names
    again, report = Theirs.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    state = again.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in theirs.state_dict().items())


def test_a_conversation_has_no_system_turn():
    found = load_checkpoint("tinyllava", "tinyllava-hf/tiny")
    sliced = found.slicer.slice((64, 64))
    turns = [Message("user", (ImageRef("bytes", b""), "\nWhat?"))]
    made = found.template.encode(turns, [sliced], generation_prompt=True)
    text = [token for token, slot in zip(made.input_ids, made.visual_mask, strict=True) if not slot]
    assert found.tokenizer.decode(text) == "USER: \nWhat? ASSISTANT:"
    assert found.slicer.slice((640, 360)).visual_tokens == 49  # of 7 x 7 patches; the class token is dropped
