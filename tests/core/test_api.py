"""polylens from Python."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
import torch
from PIL import Image
from toy import page

import polylens
from polylens.api import VLM
from polylens.contracts import ImageRef, Message, Record
from polylens.data.documents import Document
from polylens.data.store import open_documents
from polylens.errors import InputError


@pytest.fixture(scope="module")
def vlm(tiny) -> VLM:
    return polylens.load("minicpmv", "tiny", seed=tiny.seed, device="cpu")


def picture(number: int = 1) -> Image.Image:
    return Image.open(io.BytesIO(page(number)))


def record(*parts: str | ImageRef, id: str = "r") -> Record:
    return Record(id, (Message("user", parts),))


def test_slicing_needs_no_more_than_the_size(vlm):
    cut = vlm.slice(picture())
    assert cut.size == picture().size
    assert cut.visual_tokens == sum(crop.tokens for crop in cut.crops) == len(cut.token_boxes)
    assert vlm.slice(Image.new("RGB", cut.size)).crops == cut.crops


def test_from_records_to_hidden_states_and_logits(vlm):
    records = record("a b c"), record(ImageRef("bytes", page(2)), "\n")
    examples = [vlm.prepare(one, style="plain") for one in records]
    assert [len(example.crop_tokens) > 0 for example in examples] == [False, True]
    batch = vlm.collate(examples)
    out = vlm.forward(batch, ("hidden", "logits"))
    assert out.hidden.shape == (2, max(example.cost for example in examples), 128)
    assert out.logits.shape == (batch.input_ids.numel(), 2048)
    assert out.vision is None
    assert not out.hidden.requires_grad
    wanted = torch.zeros_like(batch.attention_mask)
    wanted[0, 0] = True
    assert vlm.forward(batch, ("logits",), logit_positions=wanted).logits.shape == (1, 2048)


def test_left_padding_for_generation(vlm):
    examples = [vlm.prepare(record("word " * n), style="plain") for n in (1, 5)]
    left, right = (vlm.collate(examples, padding_side=side) for side in ("left", "right"))
    assert left.attention_mask[0].tolist() == right.attention_mask[0].flip(0).tolist()
    assert not left.attention_mask[0, 0]


def test_a_style_for_chats_and_one_for_embedders(vlm):
    chat, plain = (vlm.prepare(record("hello"), style=style) for style in ("chat", "plain"))
    assert chat.cost > plain.cost
    assert vlm.prepare(record("hello")).input_ids.tolist() == chat.input_ids.tolist()


def test_a_length_limit_shortens_text_and_never_a_picture(vlm):
    assert vlm.prepare(record("word " * 50), style="plain", max_length=9).cost == 9
    with pytest.raises(InputError, match="'r': "):
        vlm.prepare(record(ImageRef("bytes", page(1)), "\n"), style="plain", max_length=9)


def test_pictures_are_found_by_path_and_by_document(vlm, toy, tmp_path):
    (tmp_path / "one.png").write_bytes(page(0))
    by_path = vlm.prepare(record(ImageRef("path", "one.png")), style="plain", image_root=tmp_path)
    documents = open_documents([toy[1]])
    by_id = vlm.prepare(record(ImageRef("document", "book.pdf#1")), style="plain", documents=documents)
    assert all(torch.equal(one, other) for one, other in zip(by_path.pixels, by_id.pixels, strict=True))
    with pytest.raises(InputError, match="no image root was given"):
        vlm.prepare(record(ImageRef("path", "one.png")))


def test_one_page_in_every_form_is_one_vector(vlm, tmp_path):
    path = tmp_path / "page.png"
    path.write_bytes(page(1))
    forms = [picture(), page(1), str(path), path]
    made = torch.cat([vlm.embed(images=[form]) for form in forms])
    assert made.dtype == torch.float32
    torch.testing.assert_close(made, made[:1].expand_as(made), atol=0, rtol=0)
    torch.testing.assert_close(vlm.embed(documents=[Document("d", page(1))]), made[:1], atol=0, rtol=0)
    assert made[0].norm() == pytest.approx(1)


def test_a_picture_of_any_mode(vlm):
    made = vlm.embed(images=[picture().convert(mode) for mode in ("RGB", "RGBA", "L", "P")])
    assert made.shape == (4, 128)
    torch.testing.assert_close(made[0], made[1], atol=1e-5, rtol=0)


def test_documents_of_text_alone_are_documents(vlm):
    """Their length limit and their lack of an instruction are those of documents."""
    card = replace(vlm.checkpoint.card, query_instruction="find: ", query_max_length=4)
    other = VLM(replace(vlm.checkpoint, card=card), vlm.device)
    text = "one two three four five six seven eight"
    as_document = vlm.embed(documents=[Document("d", None, text)])
    torch.testing.assert_close(as_document, vlm.embed(texts=[text]))
    torch.testing.assert_close(as_document, other.embed(documents=[Document("d", None, text)]))
    assert not torch.allclose(as_document, other.embed(texts=[text]), atol=1e-3)


def test_the_batch_size_changes_nothing(vlm):
    words = ("red", "green", "blue", "gray", "black")
    texts = [f"the {word} bar of a page" * (i % 3 + 1) for i, word in enumerate(words)]
    whole = vlm.embed(texts=texts)
    for size in (1, 2, 5):
        torch.testing.assert_close(vlm.embed(texts=texts, batch_size=size), whole, atol=1e-5, rtol=0)


def test_the_card_says_how_a_vector_is_made(vlm):
    card = replace(vlm.checkpoint.card, pooling="last", normalize=False)
    raw = VLM(replace(vlm.checkpoint, card=card), vlm.device).embed(texts=["red bar"])
    example = vlm.prepare(record("red bar"), style="plain")
    torch.testing.assert_close(raw[0], vlm.forward(vlm.collate([example])).hidden[0, -1])


WRONG = {
    "texts, images or documents: exactly one": [{}, {"texts": ["a"], "images": []}],
    "gone.png: cannot be read: No such file": [{"images": ["gone.png"]}],
    "picture": [{"images": [b"no picture"]}, {"documents": [Document("d", page(1)[:60])]}],
}


@pytest.mark.parametrize(("message", "given"), [(m, given) for m, all in WRONG.items() for given in all])
def test_wrong_uses_are_named(vlm, message, given):
    with pytest.raises(InputError, match=message):
        vlm.embed(**given)


def test_nothing_gives_no_vectors(vlm):
    assert vlm.embed(texts=[]).shape == (0, 128)


def test_a_saved_model_is_the_model(vlm, tmp_path):
    assert vlm.save(tmp_path / "model") == tmp_path / "model"
    found = polylens.load(None, tmp_path / "model", device="cpu")
    torch.testing.assert_close(found.embed(texts=["red bar"]), vlm.embed(texts=["red bar"]), atol=0, rtol=0)
    found.save(str(tmp_path / "again"), layout="hub")
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (
        tmp_path / "model" / "model.safetensors"
    ).read_bytes()


def test_a_layout_that_cannot_be_written_is_refused(vlm, tmp_path):
    with pytest.raises(InputError, match=r"layout 'gguf' cannot be written; it can: original \(hub\)"):
        vlm.save(tmp_path / "model", layout="gguf")
    assert not (tmp_path / "model").exists()


def test_a_loaded_model_draws_no_dropout(vlm):
    assert not vlm.checkpoint.model.training
    assert not polylens.load("minicpmv", "tiny", device="cpu").checkpoint.model.training
