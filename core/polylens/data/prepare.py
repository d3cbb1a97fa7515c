"""Records into examples: slice, resize, tokenise. Runs in data-loader workers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from polylens.contracts import (
    ChatTemplate,
    Encoding,
    Example,
    ImagePreprocessor,
    ImageSlicer,
    Record,
    Regions,
    SlicedImage,
)
from polylens.data.images import ImageOpener
from polylens.data.regions import RegionFinder
from polylens.errors import InputError


@dataclass(frozen=True, slots=True)
class Preparer:
    """Everything between a record and an example of one model.

    Attributes:
        images: opens the pictures that records name.
        style: of the template.
        generation_prompt: end with the header of an answer.
        finder: of the regions of pictures, for an objective that reads them.
    """

    slicer: ImageSlicer
    preprocessor: ImagePreprocessor
    template: ChatTemplate
    images: ImageOpener
    style: Literal["chat", "plain"] = "chat"
    generation_prompt: bool = False
    finder: RegionFinder | None = None

    def outline(self, record: Record, max_length: int | None = None) -> tuple[Encoding, tuple[SlicedImage, ...]]:
        """Tokens and crops of a record, from the headers of its pictures; no pixel is decoded.

        Raises:
            InputError: naming the record.
        """
        where = _name(record)
        sliced = tuple(self.slicer.slice(self.images.size(ref, where)) for ref in record.images)
        try:
            encoding = self.template.encode(
                record.messages,
                sliced,
                style=self.style,
                generation_prompt=self.generation_prompt,
                max_length=max_length,
            )
        except InputError as error:
            raise InputError(f"{where}: {error}") from error
        return encoding, sliced

    def regions(self, record: Record, sliced: Sequence[SlicedImage]) -> Regions | None:
        """What the visual tokens of the record show, if that is wanted.

        Raises:
            InputError: naming the record.
        """
        if self.finder is None:
            return None
        try:
            return self.finder.regions(record, sliced)
        except InputError as error:
            raise InputError(f"{_name(record)}: {error}") from error

    def decode(self, record: Record) -> None:
        """Read the pictures of a record to their end.

        Raises:
            InputError: one is damaged or missing; it names the record.
        """
        where = _name(record)
        for ref in record.images:
            self.images.open(ref, where)

    def example(self, record: Record, max_length: int | None = None, rows: dict[str, Any] | None = None) -> Example:
        """The record with its pixels."""
        encoding, sliced = self.outline(record, max_length)
        where = _name(record)
        pixels = [
            crop
            for ref, cut in zip(record.images, sliced, strict=True)
            for crop in self.preprocessor.pixels(self.images.open(ref, where), cut)
        ]
        return Example(
            id=record.id,
            input_ids=torch.tensor(encoding.input_ids, dtype=torch.long),
            labels=torch.tensor(encoding.labels, dtype=torch.long),
            visual_mask=torch.tensor(encoding.visual_mask, dtype=torch.bool),
            pixels=pixels,
            crop_tokens=[crop.tokens for cut in sliced for crop in cut.crops],
            images=sliced,
            rows=rows or {},
            regions=self.regions(record, sliced),
        )


def _name(record: Record) -> str:
    """What messages call it: place and id, unless the place has the id in it, as that of a document has."""
    if repr(record.id) in record.where:
        return record.where
    return f"{record.where}: record {record.id!r}" if record.where else f"record {record.id!r}"
