"""From the original layout to that of transformers and back, and what transformers itself makes of it."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    CLIPImageProcessorPil,
    LlavaForConditionalGeneration,
)

from polylens import cli
from polylens.contracts import ImageRef, Message, Record
from polylens.data.images import ImageOpener
from polylens.engine.loading import load_checkpoint
from polylens.engine.merge import convert_model
from polylens.engine.saving import save_model_folder
from polylens.errors import InputError
from polylens.testing.subject import encoded, picture

QUESTION = Record("0", (Message("user", (encoded(picture(90, 60)), "\nWhat is it?")),))


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    made = load_checkpoint("llava_remgcl", "tiny", seed=4)
    save_model_folder(made, folder, made.card)
    return folder


@pytest.fixture(scope="module")
def exported(ours):
    target = ours.with_name("exported")
    argv = ["merge", "--convert", ours, "--to", "llava-hf", "--output-dir", target]
    assert cli.main([str(word) for word in argv]) == 0
    return target


def batch_of(found):
    return found.collator()([found.preparer(ImageOpener(), style="chat").example(QUESTION)])


@torch.no_grad()
def test_plain_transformers_has_the_same_logits(ours, exported):
    """On all tokens that there were; the further ones enter its softmax."""
    found = load_checkpoint(None, str(ours))
    batch = batch_of(found)
    logits = found.model.eval()(batch, outputs={"logits"}).logits
    theirs, report = LlavaForConditionalGeneration.from_pretrained(exported, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    ids = batch.input_ids.masked_fill(batch.visual_mask, theirs.config.image_token_id)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (found.preprocessor.mean, found.preprocessor.std))
    pixels = (torch.stack(batch.pixels) / 255 - mean) / std
    made = theirs.eval()(input_ids=ids, attention_mask=batch.attention_mask.long(), pixel_values=pixels).logits[0]
    torch.testing.assert_close(made[:, :640], logits, rtol=1e-5, atol=1e-5)
    assert made.shape[1] == 704


@torch.no_grad()
def test_plain_transformers_says_the_same(ours, exported):
    """Greedy answers; the tokens that it has beyond ours are kept out of its own."""
    found = load_checkpoint(None, str(ours))
    prompt = found.preparer(ImageOpener(), style="chat").example(QUESTION)
    batch = found.collator("left")([prompt])
    ours_said = found.model.eval().generate(batch, do_sample=False, max_new_tokens=12, pad_token_id=0)[0]
    theirs = LlavaForConditionalGeneration.from_pretrained(exported).eval()
    ids = batch.input_ids.masked_fill(batch.visual_mask, theirs.config.image_token_id)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (found.preprocessor.mean, found.preprocessor.std))
    said = theirs.generate(
        input_ids=ids,
        attention_mask=batch.attention_mask.long(),
        pixel_values=(torch.stack(batch.pixels) / 255 - mean) / std,
        do_sample=False,
        max_new_tokens=12,
        pad_token_id=0,
        suppress_tokens=list(range(640, 704)),
    )
    assert said[0, ids.shape[1] :].tolist() == ours_said.tolist()


def test_its_own_processor_writes_the_same_prompt(ours, exported):
    """As many places for a picture as there are visual tokens, and the ids around them."""
    found = load_checkpoint(None, str(ours))
    sliced = found.slicer.slice((112, 112))
    made = found.template.encode(
        [Message("user", (ImageRef("bytes", b""), "What is it?"))], [sliced], generation_prompt=True
    )
    text = f"{found.template.style.default_system} USER: <image>\nWhat is it? ASSISTANT:"
    processor = AutoProcessor.from_pretrained(
        exported, image_processor=CLIPImageProcessorPil.from_pretrained(exported)
    )
    given = processor(images=Image.new("RGB", (112, 112)), text=text)
    image = processor.tokenizer.convert_tokens_to_ids("<image>")
    ids = [image if slot else token for token, slot in zip(made.input_ids, made.visual_mask, strict=True)]
    assert given["input_ids"][0] == ids


@torch.no_grad()
def test_this_plugin_reads_what_it_wrote(ours, exported):
    found, again = (load_checkpoint(None, str(folder)) for folder in (ours, exported))
    assert again.family.name == "llava-hf"
    first, second = batch_of(found), batch_of(again)
    assert torch.equal(first.input_ids[~first.visual_mask], second.input_ids[~second.visual_mask])
    one = found.model.eval()(first, outputs={"hidden"}).hidden
    torch.testing.assert_close(again.model.eval()(second, outputs={"hidden"}).hidden, one)


def test_names_and_rows_are_those_of_published_files(exported):
    weights = load_file(exported / "model.safetensors")
    assert {name.partition(".")[0] for name in weights} == {"language_model", "vision_tower", "multi_modal_projector"}
    assert weights["language_model.lm_head.weight"].shape == (704, 64)
    rows = weights["language_model.model.embed_tokens.weight"]
    torch.testing.assert_close(rows[640:], rows[:640].mean(dim=0).expand(64, -1))
    config = json.loads((exported / "config.json").read_text())
    assert (config["image_token_index"], config["pad_token_id"], config["image_seq_length"]) == (640, 641, 64)
    said = config["text_config"]
    assert (said["model_type"], said["architectures"]) == ("llama", ["LlamaForCausalLM"])  # by which vLLM finds it


def test_there_and_back_is_the_same(ours, exported, tmp_path):
    convert_model(exported, "llava", tmp_path / "back")
    first, last = (load_file(folder / "model.safetensors") for folder in (ours, tmp_path / "back"))
    assert first.keys() == last.keys()
    assert all(torch.equal(first[name], last[name]) for name in first)
    states = [load_checkpoint(None, str(folder)).model.state_dict() for folder in (ours, tmp_path / "back")]
    assert all(torch.equal(states[0][name], value) for name, value in states[1].items())


@torch.no_grad()
def test_the_checkpoint_of_the_original_becomes_its_converted_twin(original, tmp_path):
    """Its own converter made the twin; the rows beyond the vocabulary differ, which it drew at random."""
    twin = original.folder / "tiny-llava-hf"
    tower = {"vision_tower": str(original.folder / "tiny-clip")}
    source = original.folder / "tiny-llava"
    convert_model(source, "llava-hf", tmp_path / "made", plugin="llava_remgcl", options=tower)
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (tmp_path / "made", twin))
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert ours[name].shape == value.shape
        grew = name.endswith(("embed_tokens.weight", "lm_head.weight"))
        assert torch.equal(ours[name][:640], value[:640]) if grew else torch.equal(ours[name], value)
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path / "made")
    assert type(loaded) is LlavaForConditionalGeneration


def test_a_model_that_transformers_does_not_have_is_refused(ours, tmp_path, capsys):
    shutil.copytree(ours, tmp_path / "linear")
    config = json.loads((ours / "config.json").read_text())
    (tmp_path / "linear" / "config.json").write_text(json.dumps({**config, "mm_projector_type": "linear"}))
    with pytest.raises(InputError, match=r"/mm_projector_type is 'linear', and transformers' LLaVA always has"):
        convert_model(tmp_path / "linear", "llava-hf", tmp_path / "x")
    with pytest.raises(InputError, match=r"cannot become 'llava-h' .*'llava-hf'\?\); it can become llava-hf"):
        convert_model(ours, "llava-h", tmp_path / "x")
    argv = ["merge", "--convert", str(ours), "--output-dir", str(tmp_path / "x")]
    assert cli.main(argv) == 2
    assert "--convert and --to go together" in capsys.readouterr().err
