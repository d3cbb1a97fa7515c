"""Versions 4.6 and 4.7 beside transformers' own model and image processor."""

import io
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers.models.minicpmv4_6 import modeling_minicpmv4_6 as v4_6
from transformers.models.minicpmv4_6.image_processing_pil_minicpmv4_6 import MiniCPMV4_6ImageProcessorPil
from transformers.models.minicpmv4_7 import modeling_minicpmv4_7 as v4_7

from polylens.contracts import IGNORE_INDEX, ImageRef, Message, Record
from polylens.data.images import ImageOpener
from polylens.engine.loading import load_checkpoint
from polylens_minicpmv.slicing import MergedSlicer
from polylens_minicpmv.text.native import NativeTemplate

OWN = {"4.6": v4_6.MiniCPMV4_6ForConditionalGeneration, "4.7": v4_7.MiniCPMV4_7ForConditionalGeneration}
SIZES = (210, 270), (100, 60)


def picture(width, height):
    small = np.random.default_rng(width).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def ref(image):
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return ImageRef("bytes", buffer.getvalue())


@pytest.fixture(scope="module", params=["4.6", "4.7"])
def version(request):
    return request.param


@pytest.fixture(scope="module")
def loaded(version):
    checkpoint = load_checkpoint("minicpmv", f"tiny-{version}")
    checkpoint.model.eval()
    return checkpoint


@pytest.fixture(scope="module")
def own(loaded, version):
    model = OWN[version](loaded.model.config).eval()
    model.load_state_dict(loaded.model.state_dict())
    return model


@pytest.fixture(scope="module")
def conversation(loaded):
    first, second = (ref(picture(*size)) for size in SIZES)
    user = Message("user", ("Look ", first, " and ", second, " here."))
    return loaded.preparer(ImageOpener()).example(Record("a", (user, Message("assistant", ("A cat.",)))))


def inputs(batch, version):
    """What transformers' own image processor makes of the same pictures."""
    images = [picture(*size) for size in SIZES]
    seen = MiniCPMV4_6ImageProcessorPil(scale_resolution=112)(images, return_tensors="pt")
    given = {"pixel_values": seen["pixel_values"], "target_sizes": torch.as_tensor(seen["target_sizes"])}
    given |= {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask.long()}
    return given | ({"mm_token_type_ids": batch.visual_mask.int()} if version == "4.7" else {})


def test_logits_are_those_of_transformers(loaded, own, conversation, version):
    batch = loaded.collator()([conversation])
    assert torch.equal(batch.input_ids == own.config.image_token_id, batch.visual_mask)
    with torch.no_grad():
        found = loaded.model(batch, outputs={"logits"}).logits
        torch.testing.assert_close(found, own(**inputs(batch, version)).logits[0], rtol=1e-6, atol=1e-6)


def test_padded_generation_is_that_of_transformers_alone(loaded, own, conversation, version):
    options = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False, "pad_token_id": 0}
    text = loaded.preparer(ImageOpener()).example(Record("b", (Message("user", ("hello",)),)))
    with torch.no_grad():
        made = loaded.model.generate(loaded.collator("left")([conversation, text]), **options)
        for row, example in zip(made, (conversation, text), strict=True):
            batch = loaded.collator()([example])
            given = inputs(batch, version) if example is conversation else {"input_ids": batch.input_ids}
            assert row.tolist() == own.generate(**given, **options)[0, batch.input_ids.shape[1] :].tolist()
    assert made.shape == (2, 4)


def test_a_text_after_a_picture_generates_what_it_does_before(loaded, conversation):
    options = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False, "pad_token_id": 0}
    text = loaded.preparer(ImageOpener()).example(Record("b", (Message("user", ("hello",)),)))
    batch, pages = loaded.collator("left")([text]), loaded.collator("left")([conversation])
    with torch.no_grad():
        before = loaded.model.generate(batch, **options)
        loaded.model.generate(pages, **options)
        assert torch.equal(loaded.model.generate(batch, **options), before)


def test_generation_refuses_right_padding(loaded, conversation):
    text = loaded.preparer(ImageOpener()).example(Record("b", (Message("user", ("hello",)),)))
    with pytest.raises(ValueError, match="padded on the left"):
        loaded.model.generate(loaded.collator("right")([conversation, text]))


def test_a_saved_folder_loads_in_transformers(loaded, tmp_path, version):
    loaded.model.save_pretrained(tmp_path)
    again = OWN[version].from_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == [OWN[version].__name__]
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in loaded.model.state_dict().items())


@settings(max_examples=200, deadline=None)
@given(width=st.integers(1, 3000), height=st.integers(1, 3000), mode=st.sampled_from(["16x", "4x"]))
def test_crops_are_those_of_the_image_processor(width, height, mode):
    processor, size = MiniCPMV4_6ImageProcessorPil(), (height, width)
    sliced = MergedSlicer(448, 56 if mode == "16x" else 28, 9).slice((width, height))
    grid = processor.get_sliced_grid(size, 9, 448)
    assert sliced.grid == (tuple(reversed(grid)) if grid else None)
    best = processor.find_best_resize(size, 448, 14, mode, allow_upscale=grid is None)
    assert sliced.crops[0].scaled == tuple(reversed(best))
    assert sliced.crops[0].tokens * (16 if mode == "16x" else 4) == best[0] * best[1] // 196
    if grid:
        refined = processor.get_refine_size(size, grid, 448, 14, mode, allow_upscale=True)
        assert sliced.crops[1].scaled == tuple(reversed(refined))


def test_every_visual_token_has_a_place_of_its_own():
    sliced = MergedSlicer(112, 56, 4).slice((300, 280))
    assert (sliced.grid, sliced.visual_tokens) == ((2, 2), 20)
    overview, first = sliced.token_boxes[:4], sliced.token_boxes[4:8]
    assert overview.tolist() == [[0, 0, 150, 140], [150, 0, 300, 140], [0, 140, 150, 280], [150, 140, 300, 280]]
    assert first.tolist() == [[0, 0, 75, 70], [75, 0, 150, 70], [0, 70, 75, 140], [75, 70, 150, 140]]


def test_every_picture_is_an_overview_without_slicing():
    sliced = MergedSlicer(112, 56, 4, slice_mode=False).slice((560, 280))
    assert [crop.scaled for crop in sliced.crops] == [(168, 56)]


TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)


@pytest.mark.parametrize(("jinja", "thoughts"), [(None, ""), (TEMPLATE, "<think>\n\n</think>\n\n")])
def test_answers_begin_as_the_chat_template_of_the_checkpoint_says(jinja, thoughts, monkeypatch):
    tokenizer = load_checkpoint("minicpmv", "tiny-4.6").tokenizer
    monkeypatch.setattr(tokenizer, "chat_template", jinja)
    template = NativeTemplate(tokenizer)
    turns = [Message("user", ("a",)), Message("assistant", ("b",)), Message("user", ("c",))]
    found = template.encode(turns, [], generation_prompt=True)
    header = f"<|im_start|>assistant\n{thoughts}"
    first = f"<|im_start|>user\na<|im_end|>\n{header}b<|im_end|>\n"
    assert tokenizer.decode(found.input_ids) == first + f"<|im_start|>user\nc<|im_end|>\n{header}"
    assert tokenizer.decode([label for label in found.labels if label != IGNORE_INDEX]) == "b<|im_end|>"
    assert tokenizer.convert_ids_to_tokens(list(template.stop_ids)) == ["<|im_end|>", "<|endoftext|>"]
