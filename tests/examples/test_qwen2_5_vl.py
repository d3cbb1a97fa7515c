"""The example plugin, found through its installed entry point, against transformers' own Qwen2.5-VL."""

from __future__ import annotations

import json
from importlib.metadata import entry_points

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from support import torchrun
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil, smart_resize

from polylens.contracts import ImageRef, Message
from polylens.data.documents import Document
from polylens.data.store import DocumentWriter
from polylens.engine.loading import load_checkpoint
from polylens.engine.saving import save_model_folder
from polylens.errors import InputError
from polylens.testing import Subject, checks
from polylens.testing.subject import encoded, picture

if not entry_points(group="polylens.plugins", name="qwen2_5_vl"):
    pytest.skip("install examples/polylens_qwen2_5_vl to test it", allow_module_level=True)

# Sizes of Qwen/Qwen2.5-VL-3B-Instruct's config.json in its old, flat form, made small.
FLAT = {
    "architectures": ["Qwen2_5_VLForConditionalGeneration"],
    "attention_dropout": 0.0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "vision_start_token_id": 1009,
    "vision_end_token_id": 1010,
    "image_token_id": 1012,
    "video_token_id": 1013,
    "hidden_act": "silu",
    "hidden_size": 64,
    "initializer_range": 0.02,
    "intermediate_size": 96,
    "max_position_embeddings": 128000,
    "max_window_layers": 2,
    "model_type": "qwen2_5_vl",
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "sliding_window": 32768,
    "tie_word_embeddings": True,
    "torch_dtype": "float32",
    "use_cache": True,
    "use_sliding_window": False,
    "vision_config": {
        "depth": 2,
        "hidden_act": "silu",
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 2,
        "in_chans": 3,
        "out_hidden_size": 64,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "spatial_patch_size": 14,
        "window_size": 56,
        "fullatt_block_indexes": [1],
        "tokens_per_second": 2,
        "temporal_patch_size": 2,
    },
    "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
    "vocab_size": 1024,
}


@pytest.fixture(scope="module")
def subject():
    return Subject("qwen2_5_vl")


@pytest.mark.parametrize("one", checks(), ids=lambda one: one.__name__)
def test_contract(one, subject):
    one(subject)


@pytest.fixture(scope="module")
def checkpoint():
    loaded = load_checkpoint("qwen2_5_vl", "tiny")
    loaded.model.eval()
    return loaded


@pytest.fixture(scope="module")
def native(checkpoint):
    """transformers' model with the same weights."""
    model = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig.from_dict(checkpoint.model.config.to_dict()))
    model.load_state_dict(checkpoint.model.state_dict())
    return model.eval()


@pytest.mark.parametrize("size", [(310, 130), (64, 700), (20, 20), (900, 1200)])
def test_equals_transformers(subject, checkpoint, native, size):
    """Hidden states and logits, pixels prepared by transformers' image processor."""
    image = picture(*size)
    example = subject.example(image, "\nWhere is the serial number?")
    batch = checkpoint.collator("left")([example, subject.example("other")])
    prepared = Qwen2VLImageProcessorPil()(images=[image], return_tensors="pt")
    with torch.no_grad():
        ours = checkpoint.model(batch, outputs={"hidden", "logits"})
        theirs = native(
            input_ids=example.input_ids[None],
            attention_mask=torch.ones_like(example.input_ids)[None],
            mm_token_type_ids=example.visual_mask[None].int(),
            pixel_values=prepared["pixel_values"],
            image_grid_thw=prepared["image_grid_thw"],
            output_hidden_states=True,
        )
    real = len(example.input_ids)
    logits = ours.logits.view(*batch.input_ids.shape, -1)
    torch.testing.assert_close(ours.hidden[0, -real:], theirs.hidden_states[-1][0], atol=1e-5, rtol=0)
    torch.testing.assert_close(logits[0, -real:], theirs.logits[0], atol=1e-5, rtol=0)


def test_text_equals_transformers(subject, checkpoint, native):
    batch = checkpoint.collator()([subject.example("Replace the filter every 500 hours."), subject.example("short")])
    with torch.no_grad():
        ours = checkpoint.model(batch).hidden
        theirs = native.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask.long()).last_hidden_state
    torch.testing.assert_close(ours[batch.attention_mask], theirs[batch.attention_mask], atol=1e-5, rtol=0)


def test_pixels_are_those_of_transformers(checkpoint):
    image = picture(333, 187)
    sliced = checkpoint.slicer.slice(image.size)
    (crop,) = checkpoint.preprocessor.pixels(image, sliced)
    prepared = Qwen2VLImageProcessorPil()(images=[image], return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(checkpoint.model._patches(crop), prepared, atol=1e-5, rtol=0)


@pytest.mark.parametrize("limits", [{}, {"min_pixels": 784, "max_pixels": 100352}])
def test_sizes_are_those_of_transformers(limits):
    slicer = load_checkpoint("qwen2_5_vl", "tiny", options=limits).slicer
    given = {"min_pixels": 56 * 56, "max_pixels": 28 * 28 * 1280, **limits}
    generator = np.random.default_rng(0)
    sizes = [(1, 1), (1, 200), (2000, 10), *map(tuple, generator.integers(1, 3000, (200, 2)).tolist())]
    for width, height in sizes:
        if max(width, height) > 200 * min(width, height):
            continue
        (crop,) = slicer.slice((width, height)).crops
        assert crop.size[::-1] == smart_resize(height, width, 28, **given)


def test_a_picture_that_is_too_long(checkpoint):
    with pytest.raises(InputError, match=r"a picture of 1 x 201 pixels is too long: .*200 times"):
        checkpoint.slicer.slice((1, 201))


def test_limits_that_contradict_each_other():
    with pytest.raises(InputError, match=r"min_pixels is 1000 and max_pixels is 800; needed: 784 <= min_pixels"):
        load_checkpoint("qwen2_5_vl", "tiny", options={"min_pixels": 1000, "max_pixels": 800})


def test_chat_is_the_published_template(checkpoint):
    sliced = checkpoint.slicer.slice((90, 60))
    messages = [Message("user", (encoded(picture(90, 60)), "What is this?")), Message("assistant", ("A pump.",))]
    encoding = checkpoint.template.encode(messages, [sliced])
    slots = "<|image_pad|>" * sliced.visual_tokens
    assert checkpoint.tokenizer.decode(encoding.input_ids) == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        f"<|im_start|>user\n<|vision_start|>{slots}<|vision_end|>What is this?<|im_end|>\n"
        "<|im_start|>assistant\nA pump.<|im_end|>\n"
    )
    supervised = [label for label in encoding.labels if label >= 0]
    assert checkpoint.tokenizer.decode(supervised) == "A pump.<|im_end|>"


def test_a_system_message_replaces_the_default(checkpoint):
    encoding = checkpoint.template.encode([Message("system", ("Be brief.",)), Message("user", ("Hello",))], [])
    assert checkpoint.tokenizer.decode(encoding.input_ids).startswith(
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_s"
    )


def test_role_tags_in_a_text_are_refused(checkpoint):
    with pytest.raises(InputError, match=r"a text contains <\|im_end\|>"):
        checkpoint.template.encode([Message("user", ("Hello<|im_end|>",))], [], style="plain")


def test_a_picture_that_does_not_fit(checkpoint):
    sliced = checkpoint.slicer.slice((300, 300))
    with pytest.raises(InputError, match=r"more than the limit of 50; raise the limit or lower max_pixels"):
        checkpoint.template.encode([Message("user", (ImageRef("path", "a"),))], [sliced], style="plain", max_length=50)


def test_a_tokenizer_of_another_model(tmp_path, checkpoint):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        text = (checkpoint.source.folder / name).read_text(encoding="utf-8").replace("image_pad", "picture")
        (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=r"the tokenizer lacks <\|image_pad\|>"):
        checkpoint.hooks.tokenizer(family=checkpoint.family, source=tmp_path)
    with pytest.raises(InputError, match="no tokenizer here"):
        checkpoint.hooks.tokenizer(family=checkpoint.family, source=tmp_path / "empty")


@pytest.fixture
def hub_folder(tmp_path, checkpoint):
    """A folder as published ones are: flat ``config.json``, names ``model.layers...`` and ``visual...``."""
    folder = tmp_path / "hub"
    torch.manual_seed(1)
    model = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig.from_dict(FLAT))
    model.save_pretrained(folder)
    checkpoint.tokenizer.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(FLAT))
    return folder, model


def names(folder):
    with safe_open(folder / "model.safetensors", "pt") as file:
        return set(file.keys())


def test_published_folders_are_read_and_written_back(hub_folder, tmp_path):
    folder, wanted = hub_folder
    assert {"visual.patch_embed.proj.weight", "model.layers.0.self_attn.q_proj.weight"} <= names(folder)
    loaded = load_checkpoint("qwen2_5_vl", str(folder))
    assert type(loaded.model).__name__ == wanted.__class__.__name__
    for name, value in wanted.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], value)
    save_model_folder(loaded, tmp_path / "again", loaded.card)
    assert names(tmp_path / "again") == names(folder)
    again, report = Qwen2_5_VLForConditionalGeneration.from_pretrained(tmp_path / "again", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), wanted.parameters(), strict=True))


def test_flat_configurations_keep_their_meaning(hub_folder):
    config = load_checkpoint("qwen2_5_vl", str(hub_folder[0])).model.config
    assert config.text_config.hidden_size == 64
    assert config.text_config.rope_parameters["mrope_section"] == [2, 3, 3]
    assert config.text_config.rope_parameters["rope_theta"] == 1e6


def test_features_keep_the_order_of_the_tokens(subject, checkpoint):
    """Features of two pictures, changed in one place, move one visual token: windows are undone."""
    batch = checkpoint.collator()([subject.example(picture(200, 120), picture(90, 90, seed=1), "\n")])
    with torch.no_grad():
        made = checkpoint.model(batch, outputs={"vision", "connector"})
        features = [part.clone() for part in made.vision]
        features[1][4 * 5 : 4 * 6] += 1
        batch.features, batch.pixels = features, []
        changed = checkpoint.model(batch, outputs={"connector"}).connector
    moved = (changed - made.connector).abs().amax(dim=1).nonzero().flatten().tolist()
    assert moved == [int(batch.crop_tokens[0]) + 5]


def test_a_picture_of_one_pixel(checkpoint):
    """One pixel becomes four visual tokens."""
    sliced = checkpoint.slicer.slice((1, 1))
    (crop,) = checkpoint.preprocessor.pixels(Image.new("RGB", (1, 1), (9, 8, 7)), sliced)
    assert sliced.visual_tokens == 4
    assert crop.shape == (3, 56, 56)
    assert crop[:, 0, 0].tolist() == [9, 8, 7]


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Eight pages and a query for each: the arguments of ``polylens train``."""
    folder = tmp_path_factory.mktemp("pages")
    words = ["filter", "pump", "valve", "belt", "sensor", "handle", "oil", "cover"]
    with DocumentWriter(folder / "pages") as writer:
        for number, word in enumerate(words):
            image = encoded(picture(60 + 20 * number, 90, seed=number)).value
            writer.write(Document(f"manual.pdf#{number}", image=image, text=word))
    pairs = [{"query": f"Where is the {w}?", "positives": [f"manual.pdf#{n}"]} for n, w in enumerate(words)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    return [
        *("--model-plugin", "qwen2_5_vl", "--model", "tiny", "--objective", "contrastive"),
        *("--train", folder / "pairs.jsonl", "--documents", folder / "pages", "--max_pixels", "7840"),
        *("--grad-cache-micro-batch-size", "2", "--learning_rate", "2e-4", "--max_steps", "4", "--seed", "7"),
        *("--logging_steps", "1", "--temperature", "0.1", "--dataloader_num_workers", "0"),
    ]


def train(pages, folder, *options, ranks=1):
    """Losses of ``polylens train``, and the weights that it wrote."""
    size = ("--per_device_train_batch_size", str(8 // ranks), "--output-dir", folder)
    torchrun("-m", "polylens", "train", *pages, *size, *options, nproc=ranks, timeout=400)
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if "loss" in line], load_file(folder / "model.safetensors")


def difference(weights, wanted):
    """Relative L2 norm of the difference."""
    assert weights.keys() == wanted.keys()
    away = sum(float((weights[name] - wanted[name]).pow(2).sum()) for name in wanted)
    return (away / sum(float(value.pow(2).sum()) for value in wanted.values())) ** 0.5


@pytest.fixture(scope="module")
def trained(pages, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "out"
    return folder, *train(pages, folder)


def test_trains_with_the_command_of_every_plugin(trained):
    folder, losses, _ = trained
    assert len(losses) == 4
    assert losses[-1] < losses[0]
    assert json.loads((folder / "polylens.json").read_text())["options"] == {"min_pixels": 3136, "max_pixels": 7840}
    _, report = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert "model.layers.0.self_attn.q_proj.weight" in names(folder)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_two_ranks_of_zero3_train_the_same_weights(pages, trained, tmp_path):
    """transformers builds parts of this model by itself, which partitions them if nobody says otherwise."""
    _, losses, wanted = trained
    config = tmp_path / "zero3.json"
    sizes = ("train_micro_batch_size_per_gpu", "train_batch_size", "gradient_accumulation_steps")
    config.write_text(json.dumps({"zero_optimization": {"stage": 3}, **dict.fromkeys(sizes, "auto")}))
    found, weights = train(pages, tmp_path / "out", "--deepspeed", config, ranks=2)
    assert found == pytest.approx(losses, rel=1e-4)
    assert difference(weights, wanted) < 1e-4
