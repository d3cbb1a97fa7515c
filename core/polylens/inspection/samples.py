"""Records as a model is given them: pictures, crops, and every token."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

import numpy as np
from PIL import Image
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from polylens.contracts import IGNORE_INDEX, Crop, Encoding, ImageRef, Record, SlicedImage
from polylens.data.prepare import Preparer

_OVERVIEW = (640, 640)
"""Pixels of a picture as it was, at most; crops are shown as the model sees them."""


@dataclass(frozen=True, slots=True)
class Token:
    """A position of the sequence.

    Attributes:
        text: of the token, blanks and line ends made visible.
    """

    position: int
    id: int
    text: str
    supervised: bool


@dataclass(frozen=True, slots=True)
class Run:
    """Tokens that follow one another: text, or the visual tokens of one crop.

    Attributes:
        crop: whose visual tokens stand here: numbers of the picture and of the crop in it, from 1; ``None`` for text.
    """

    tokens: list[Token]
    crop: tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class CropView:
    """A crop as the vision tower sees it.

    Attributes:
        number: in its picture, from 1.
        source: of an ``<img>``.
        box: left, top, width and height on the picture, in percent.
        whole: whether it shows the whole picture.
    """

    number: int
    source: str
    size: tuple[int, int]
    tokens: int
    box: tuple[float, float, float, float]

    @property
    def whole(self) -> bool:
        return self.box == (0.0, 0.0, 100.0, 100.0)


@dataclass(frozen=True, slots=True)
class PictureView:
    """A picture and how it is cut."""

    source: str
    name: str
    size: tuple[int, int]
    grid: tuple[int, int] | None
    crops: list[CropView]

    @property
    def tokens(self) -> int:
        return sum(crop.tokens for crop in self.crops)


@dataclass(frozen=True, slots=True)
class Sample:
    """A record as the model is given it.

    Attributes:
        cut: tokens that ``max_length`` took away.
        max_length: ``None`` if there is none.
    """

    style: Literal["chat", "plain"]
    pictures: list[PictureView]
    runs: list[Run]
    cut: int
    max_length: int | None

    @property
    def tokens(self) -> int:
        return sum(len(run.tokens) for run in self.runs)

    @property
    def visual(self) -> int:
        return sum(len(run.tokens) for run in self.runs if run.crop)

    @property
    def supervised(self) -> int:
        return sum(token.supervised for run in self.runs for token in run.tokens)


def make_sample(
    record: Record, preparer: Preparer, tokenizer: PreTrainedTokenizerBase, max_length: int | None
) -> Sample:
    """Prepare a record as training does.

    Raises:
        InputError: what training would say of it.
    """
    encoding, images = preparer.outline(record, max_length)
    whole = encoding if max_length is None else preparer.outline(record)[0]
    pictures = [
        _picture(preparer, ref, sliced, record.where or record.id)
        for ref, sliced in zip(record.images, images, strict=True)
    ]
    cut = len(whole.input_ids) - len(encoding.input_ids)
    return Sample(preparer.style, pictures, list(runs(encoding, images, tokenizer)), cut, max_length)


def runs(encoding: Encoding, images: Sequence[SlicedImage], tokenizer: PreTrainedTokenizerBase) -> Iterator[Run]:
    """The sequence, divided where text and visual tokens meet and where another crop begins."""
    owners = iter(
        (picture, number)
        for picture, image in enumerate(images, 1)
        for number, crop in enumerate(image.crops, 1)
        for _ in range(crop.tokens)
    )
    texts = _texts(encoding.input_ids, tokenizer)
    places = [next(owners) if visual else None for visual in encoding.visual_mask]
    for crop, group in groupby(range(len(places)), places.__getitem__):
        tokens = [Token(i, encoding.input_ids[i], texts[i], encoding.labels[i] != IGNORE_INDEX) for i in group]
        yield Run(tokens, crop)


def _texts(ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    known: dict[int, str] = {}
    for id in ids:
        if id not in known:
            known[id] = token_text(id, tokenizer)
    return [known[id] for id in ids]


def token_text(id: int, tokenizer: PreTrainedTokenizerBase) -> str:
    """A token for the eye: ``·`` for a blank, ``⏎`` for a line end; bytes that are no character as they are named."""
    name = str(tokenizer.convert_ids_to_tokens(id))
    text = str(tokenizer.decode([id], clean_up_tokenization_spaces=False))
    if "\N{REPLACEMENT CHARACTER}" in text or not text:
        text = name
    elif name.startswith("▁") and not text.startswith(" "):
        text = " " + text
    return text.replace("▁", " ").replace(" ", "·").replace("\n", "⏎").replace("\t", "⇥")


def _picture(preparer: Preparer, ref: ImageRef, sliced: SlicedImage, where: str) -> PictureView:
    image = preparer.images.open(ref, where)
    pixels = preparer.preprocessor.pixels(image, sliced)
    crops = [
        CropView(number, _source(_image(own)), crop.size, crop.tokens, _box(crop))
        for number, (own, crop) in enumerate(zip(pixels, sliced.crops, strict=True), 1)
    ]
    name = f"{len(ref.value)} bytes" if isinstance(ref.value, bytes) else ref.value
    image.thumbnail(_OVERVIEW)
    return PictureView(_source(image), name, sliced.size, sliced.grid, crops)


def _box(crop: Crop) -> tuple[float, float, float, float]:
    """Where a crop lies on its picture; a window that reaches beyond is cut."""
    (width, height), (left, top, right, bottom) = crop.scaled, crop.window
    x, y = 100 * max(left, 0) / width, 100 * max(top, 0) / height
    return x, y, 100 * min(right, width) / width - x, 100 * min(bottom, height) / height - y


def _image(pixels: Tensor) -> Image.Image:
    """A picture of uint8 [3, H, W]."""
    return Image.fromarray(np.ascontiguousarray(pixels.permute(1, 2, 0).numpy()))


def _source(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
