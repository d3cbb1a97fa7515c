"""``polylens encode``: the same vectors whoever makes them, and in however many goes."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from support import torchrun

import polylens
from polylens.cli import main
from polylens.data.documents import Document
from polylens.data.store import DocumentWriter, open_documents
from polylens.engine.fingerprint import fingerprint
from polylens.engine.saving import save_model_folder
from polylens.errors import InputError
from polylens.retrieval.encode import DocumentRecords
from polylens.retrieval.vectors import VectorStore

INSTRUCTION = "Represent this query for finding a page: "
TEXTS = ["red bar", "where is the blue bar?", "chapter 3"]


@pytest.fixture(scope="module")
def model(tiny, tmp_path_factory) -> Path:
    """A model folder with a query instruction."""
    folder = tmp_path_factory.mktemp("model")
    save_model_folder(tiny, folder, replace(tiny.card, query_instruction=INSTRUCTION))
    return folder


@pytest.fixture(scope="module")
def queries(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("queries") / "queries.jsonl"
    lines = [{"_id": f"q{i}", "text": text} for i, text in enumerate(TEXTS)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def documents_command(model: Path, store: Path, output: Path, *more: str) -> list[str]:
    return [
        *("encode", "--model", str(model), "--documents", str(store), "--output", str(output), "--device", "cpu"),
        *("--batch-size", "2", "--rows-per-shard", "3", "--num-workers", "0", *more),
    ]


@pytest.fixture(scope="module")
def pages(model, toy, tmp_path_factory) -> Path:
    """The toy pages as vectors: three shards."""
    output = tmp_path_factory.mktemp("vectors") / "pages"
    assert main(documents_command(model, toy[1], output)) == 0
    return output


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def vectors(folder: Path) -> dict[str, torch.Tensor]:
    store = VectorStore(folder)
    return dict(zip(store.ids(), store.rows(0, len(store)), strict=True))


def test_vectors_of_every_document_in_stored_order(pages, toy):
    store = VectorStore(pages)
    assert list(store.ids()) == list(open_documents([toy[1]]).ids())
    assert (store.dimensions, store.kind, store.shards) == (128, "document", 3)
    torch.testing.assert_close(store.rows(0, 8).norm(dim=1), torch.ones(8))
    assert store.card["query_instruction"] == INSTRUCTION


def test_the_last_line_says_what_is_where(model, toy, tmp_path, capsys):
    assert main(documents_command(model, toy[1], tmp_path / "v")) == 0
    assert capsys.readouterr().out == f"8 document vectors of 128 dimensions are in {tmp_path / 'v'}\n"


def test_a_lost_shard_is_made_again_and_nothing_else(pages, model, toy, tmp_path, monkeypatch):
    output = tmp_path / "v"
    assert main(documents_command(model, toy[1], output)) == 0
    whole = content(output)
    assert whole == content(pages)
    (output / "vectors-00001.safetensors").unlink()
    read = []
    reading = DocumentRecords.__getitem__
    monkeypatch.setattr(DocumentRecords, "__getitem__", lambda self, i: read.append(i) or reading(self, i))
    assert main(documents_command(model, toy[1], output)) == 0
    assert content(output) == whole
    assert read == [3, 4, 5]


def test_two_ranks_write_the_bytes_of_one(pages, model, toy, tmp_path):
    ranks = torchrun("-m", "polylens", *documents_command(model, toy[1], tmp_path / "v"))
    assert content(tmp_path / "v") == content(pages)
    assert [rank.output.count("vectors of 128 dimensions") for rank in ranks] == [1, 0]


def test_workers_change_nothing(pages, model, toy, tmp_path):
    assert main(documents_command(model, toy[1], tmp_path / "v", "--num-workers", "1")) == 0
    assert content(tmp_path / "v") == content(pages)


def test_another_model_does_not_write_into_the_same_folder(pages, model, toy, tmp_path, capsys):
    """The same card, other weights: half of the vectors would be of another model."""
    other = tmp_path / "other"
    vlm = polylens.load("minicpmv", "tiny", seed=77)
    save_model_folder(vlm.checkpoint, other, replace(vlm.checkpoint.card, query_instruction=INSTRUCTION))
    before = content(pages)
    assert main(documents_command(other, toy[1], pages)) == 2
    assert "holds other vectors: fingerprint is" in capsys.readouterr().err
    assert main(documents_command(Path("tiny"), toy[1], pages, "--model-plugin", "minicpmv")) == 2
    assert content(pages) == before


def test_chosen_documents(pages, model, toy, tmp_path):
    chosen = ["book.pdf#7", "book.pdf#2", "book.pdf#3"]
    (tmp_path / "ids.txt").write_text("\n".join(chosen) + "\n")
    assert main(documents_command(model, toy[1], tmp_path / "v", "--ids", str(tmp_path / "ids.txt"))) == 0
    found, whole = vectors(tmp_path / "v"), vectors(pages)
    assert list(found) == chosen
    for id, vector in found.items():
        torch.testing.assert_close(vector, whole[id], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("book.pdf#1\nbook.pdf#99\n", "ids.txt:2: no document 'book.pdf#99' in the stores"),
        ("book.pdf#1\nbook.pdf#1\n", "the id 'book.pdf#1' occurs twice"),
        ("\n", "there is no document to encode"),
        (None, "ids.txt: cannot be read"),
    ],
)
def test_ids_that_cannot_be_encoded_are_named(model, toy, tmp_path, capsys, text, message):
    if text is not None:
        (tmp_path / "ids.txt").write_text(text)
    assert main(documents_command(model, toy[1], tmp_path / "v", "--ids", str(tmp_path / "ids.txt"))) == 2
    assert message in capsys.readouterr().err


def test_queries_take_the_instruction_of_the_model(tiny, model, queries, tmp_path):
    arguments = ["encode", "--queries", str(queries), "--num-workers", "0", "--device", "cpu"]
    assert main([*arguments, "--model", str(model), "--output", str(tmp_path / "with")]) == 0
    plain = tmp_path / "plain"
    save_model_folder(tiny, plain, tiny.card)
    assert main([*arguments, "--model", str(plain), "--output", str(tmp_path / "without")]) == 0
    instructed, bare = polylens.load(None, model, device="cpu"), polylens.load(None, plain, device="cpu")
    for folder, expected in (
        ("with", instructed.embed(texts=TEXTS)),
        ("with", bare.embed(texts=[INSTRUCTION + text for text in TEXTS])),
        ("without", bare.embed(texts=TEXTS)),
    ):
        found = torch.stack(list(vectors(tmp_path / folder).values()))
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert VectorStore(tmp_path / "with").kind == "query"


def test_embed_makes_the_same_vectors(pages, model, toy):
    vlm, source = polylens.load(None, model, device="cpu"), open_documents([toy[1]])
    documents = [source.read(id) for id in source.ids()]
    expected = torch.stack(list(vectors(pages).values()))
    torch.testing.assert_close(vlm.embed(documents=documents, batch_size=3), expected, atol=1e-5, rtol=0)
    bare = [i for i, document in enumerate(documents) if not document.text]
    as_bytes = [documents[i].image for i in bare]
    as_pictures = [Image.open(io.BytesIO(image)) for image in as_bytes]
    for images in (as_bytes, as_pictures):
        torch.testing.assert_close(vlm.embed(images=images), expected[bare], atol=1e-5, rtol=0)


def test_a_damaged_page_is_one_error_and_what_is_made_stays(model, toy, tmp_path, capsys):
    source = open_documents([toy[1]])
    with DocumentWriter(tmp_path / "store") as writer:
        for number, id in enumerate(source.ids()):
            document = source.read(id)
            image = document.image[:-40] if number == 6 else document.image
            writer.write(Document(id, image, document.text))
    command = documents_command(model, tmp_path / "store", tmp_path / "v", "--num-workers", "1")
    assert main(command) == 2
    error = capsys.readouterr().err
    assert "picture of document 'book.pdf#7' is damaged or cut short" in error
    assert "Traceback" not in error
    assert sorted(content(tmp_path / "v")) == ["vectors-00000.safetensors", "vectors-00001.safetensors"]
    with pytest.raises(InputError, match="give a folder that `polylens encode` has finished"):
        VectorStore(tmp_path / "v")


def test_a_fingerprint_tells_weights_apart(model, tmp_path):
    whole = fingerprint(model)
    assert whole == fingerprint(model)
    (tmp_path / "model.safetensors").write_bytes((model / "model.safetensors").read_bytes())
    assert fingerprint(tmp_path) == whole, "the card is compared by itself"
    with (tmp_path / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x01")
    assert fingerprint(tmp_path) != whole
