"""Regions of rows: found through OCR lines, joined, cut, and sent to other processes."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import polylens
from polylens.contracts import ImageRef, Message, Record, Regions
from polylens.data.images import ImageOpener
from polylens.data.ocr.lines import read_ocr_lines
from polylens.data.regions import PlainTokens, RegionFinder, picture_label
from polylens.engine.stream import pack, unpack
from polylens.errors import InputError
from polylens.modeling.coverage import TokenCover

ids = st.lists(st.integers(0, 99), min_size=1, max_size=3)
tokens = st.lists(st.integers(0, 5), min_size=1, max_size=4)
lines = st.lists(st.tuples(ids, tokens, st.floats(0, 1, width=32)), max_size=4)
rows = st.lists(st.tuples(st.lists(st.booleans(), max_size=6), lines), min_size=1, max_size=4)


def said(regions: Regions) -> list[tuple]:
    """Each row as plain lists."""
    ids = regions.ids.split(regions.id_counts.tolist())
    tokens = regions.tokens.split(regions.token_counts.tolist())
    seen = regions.on_picture.split(regions.visual_counts.tolist())
    return [
        (
            seen[row].tolist(),
            [
                (ids[i].tolist(), tokens[i].tolist(), float(regions.scores[i]))
                for i in (regions.line_rows == row).nonzero().flatten().tolist()
            ],
        )
        for row in range(len(regions.visual_counts))
    ]


@given(rows, st.data())
def test_rows_are_joined_and_taken(given_rows, data):
    whole = Regions.joined([Regions.of_example(seen, found) for seen, found in given_rows])
    plain = [(seen, [(list(a), list(b), c) for a, b, c in found]) for seen, found in given_rows]
    assert said(whole) == plain
    chosen = data.draw(st.lists(st.integers(0, len(plain) - 1), max_size=5))
    assert said(whole.take(chosen)) == [plain[row] for row in chosen]


@pytest.fixture
def talk(tmp_path):
    """Two pictures in one conversation, with a line in each and one that is cropped to nothing."""
    for name, size in (("a.png", (224, 224)), ("b.png", (300, 100))):
        Image.new("RGB", size, "white").save(tmp_path / name)
    first = [{"box": [10, 10, 100, 30], "text": "red wheel", "score": 0.9}]
    found = [
        {"image": "a.png", "width": 224, "height": 224, "engine": "e", "lines": first},
        {"image": "b.png", "width": 300, "height": 100, "engine": "e", "lines": [{**first[0], "text": "open"}]},
    ]
    (tmp_path / "ocr.jsonl").write_text("".join(json.dumps(line) + "\n" for line in found))
    parts = (ImageRef("path", "a.png"), ImageRef("path", "b.png"), "what is it?")
    return tmp_path, Record("r", (Message("user", parts), Message("assistant", ("a sign",))))


def finder(checkpoint, folder, name="ocr.jsonl") -> RegionFinder:
    known = read_ocr_lines([folder / name], image_root=folder)
    return RegionFinder(TokenCover(), PlainTokens(checkpoint.tokenizer), known)


@pytest.mark.parametrize("plugin", ["minicpmv", "tinyllava", "llava_remgcl", "qwen2_5_vl"])
def test_lines_of_several_pictures_have_tokens_of_their_own(talk, plugin):
    folder, record = talk
    checkpoint = polylens.load(plugin, "tiny").checkpoint
    preparer = dataclasses.replace(checkpoint.preparer(ImageOpener(folder)), finder=finder(checkpoint, folder))
    example = preparer.example(record)
    regions, (a, b) = example.regions, example.images
    assert regions is not None
    assert int(regions.visual_counts) == a.visual_tokens + b.visual_tokens == int(example.visual_mask.sum())
    first, second = regions.tokens.split(regions.token_counts.tolist())
    assert int(first.max()) < a.visual_tokens <= int(second.min())
    boxes = np.concatenate([a.token_boxes, b.token_boxes])
    for tokens in (first, second):
        overlap = np.minimum(boxes[tokens, 2:], [100, 30]) - np.maximum(boxes[tokens, :2], [10, 10])
        assert (overlap > 0).all()
    text = checkpoint.tokenizer.decode(regions.ids.split(regions.id_counts.tolist())[1])
    assert text.strip() == "open"
    batch = checkpoint.collator()([example])
    assert said(unpack(pack(batch)).regions) == said(regions)  # type: ignore[arg-type]


def test_a_picture_of_another_size_is_refused(talk):
    folder, record = talk
    Image.new("RGB", (120, 120)).save(folder / "b.png")
    checkpoint = polylens.load("minicpmv", "tiny").checkpoint
    preparer = dataclasses.replace(checkpoint.preparer(ImageOpener(folder)), finder=finder(checkpoint, folder))
    with pytest.raises(InputError, match=r"record 'r': .*ocr\.jsonl:2: picture 'b\.png' has 120 x 120 pixels"):
        preparer.example(record)


def test_the_same_pictures_have_the_same_label():
    def record(*values: str) -> Record:
        return Record("r", (Message("user", tuple(ImageRef("path", value) for value in values)),))

    assert picture_label(record("a", "b")) == picture_label(record("a", "b"))
    different = {picture_label(record(*values)) for values in (("a", "b"), ("b", "a"), ("ab",), ("a",), ())}
    assert len(different) == 5
    assert torch.tensor(list(different)).dtype == torch.long
