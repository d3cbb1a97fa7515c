"""polylens from Python: ``load``, ``train``, and the model with everything around it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from PIL.Image import Image
from torch import Tensor

from polylens.config.run import RunConfig
from polylens.contracts import Batch, Example, ImageRef, Message, Outputs, Record, SlicedImage
from polylens.data.documents import Document, DocumentSource
from polylens.data.images import ImageOpener
from polylens.engine.loading import Checkpoint, load_checkpoint
from polylens.engine.training import TrainingResult
from polylens.errors import InputError
from polylens.retrieval.encode import Encoder

__all__ = ["VLM", "RunConfig", "load", "train"]


def load(
    plugin: str | None,
    source: str | Path,
    *,
    options: Mapping[str, Any] | None = None,
    dtype: str = "auto",
    device: str | torch.device | None = None,
    attn_implementation: str = "sdpa",
    seed: int = 0,
) -> VLM:
    """Load a vision-language model through its plugin.

    Args:
        plugin: name of an installed plugin; ``None`` if the folder's ``polylens.json`` names it.
        source: model folder, adapter folder, hub id, or preset such as ``tiny``.
        options: of the model family, such as ``{"max_slice_nums": 4}``.
        dtype: of the weights; ``auto`` takes the checkpoint's own.
        device: by default the accelerator if there is one.
        seed: of a preset's random weights.

    Raises:
        InputError: the plugin, the model or an option cannot be used.

    >>> import polylens
    >>> vlm = polylens.load("minicpmv", "tiny")
    >>> vlm.embed(texts=["a page about pumps"]).shape[0]
    1
    """
    chosen = device or torch.accelerator.current_accelerator() or "cpu"
    checkpoint = load_checkpoint(
        plugin,
        str(source),
        options=options,
        dtype=dtype,
        device=chosen,
        attn_implementation=attn_implementation,
        seed=seed,
    )
    checkpoint.model.eval()
    return VLM(checkpoint, torch.device(chosen))


def train(config: RunConfig) -> TrainingResult:
    """Train a model as ``config`` says; the same as ``polylens train``.

    Raises:
        InputError: anything in the configuration, the data or the model that cannot be used.
    """
    from polylens.engine import training
    from polylens.retrieval.validation import retrieval_evaluator

    return training.train(config, retrieval_evaluator)


class VLM:
    """A model with its tokenizer, slicer, preprocessor and template.

    Attributes:
        checkpoint: all of these.
        device: where the model lies.
    """

    def __init__(self, checkpoint: Checkpoint, device: torch.device) -> None:
        self.checkpoint = checkpoint
        self.device = device

    def slice(self, image: Image) -> SlicedImage:
        """How a picture is cut: crops, grid and visual tokens.

        >>> import polylens, PIL.Image
        >>> vlm = polylens.load("minicpmv", "tiny")
        >>> cut = vlm.slice(PIL.Image.new("RGB", (600, 800)))
        >>> cut.visual_tokens == sum(crop.tokens for crop in cut.crops) == len(cut.token_boxes)
        True
        """
        return self.checkpoint.slicer.slice(image.size)

    def prepare(
        self,
        record: Record,
        *,
        style: Literal["chat", "plain"] = "chat",
        max_length: int | None = None,
        image_root: Path | None = None,
        documents: DocumentSource | None = None,
    ) -> Example:
        """Tokens, labels and pixels of a record.

        Args:
            style: of the template; ``plain`` is what embedding models see.
            max_length: text is shortened to fit, never a picture.
            image_root: where relative picture paths start.
            documents: where pictures of documents lie.
        """
        return self.checkpoint.preparer(ImageOpener(image_root, documents), style).example(record, max_length)

    def collate(self, examples: Sequence[Example], *, padding_side: Literal["right", "left"] = "right") -> Batch:
        """A batch on the model's device.

        >>> import polylens
        >>> from polylens.contracts import Message, Record
        >>> vlm = polylens.load("minicpmv", "tiny")
        >>> records = [Record(str(n), (Message("user", ("pump " * n,)),)) for n in (1, 3)]
        >>> batch = vlm.collate([vlm.prepare(record, style="plain") for record in records])
        >>> vlm.forward(batch).hidden.shape[:2] == batch.input_ids.shape
        True
        """
        return self.checkpoint.collator(padding_side)(examples).to(self.device)

    @torch.no_grad()
    def forward(self, batch: Batch, outputs: Sequence[str] = ("hidden",), **positions: Tensor) -> Outputs:
        """Run the model; see ``Outputs`` for what can be asked for, and for ``logit_positions`` and ``embed_ids``."""
        return self.checkpoint.model(batch, outputs=frozenset(outputs), **positions)

    def embed(
        self,
        *,
        texts: Sequence[str] | None = None,
        images: Sequence[Image | bytes | str | Path] | None = None,
        documents: Sequence[Document] | None = None,
        batch_size: int = 16,
    ) -> Tensor:
        """float32 vectors [n, D], with the pooling, normalisation and query instruction of ``polylens.json``.

        Args:
            texts: queries.
            images: pages, as pictures, encoded bytes or paths.
            documents: pages with text, or texts.

        Raises:
            InputError: not exactly one kind was given, or a picture cannot be read.
        """
        given = [value for value in (texts, images, documents) if value is not None]
        if len(given) != 1:
            raise InputError("embed() takes texts, images or documents: exactly one of them")
        if texts is not None:
            instruction = self.checkpoint.card.query_instruction
            records = [_record(str(i), (instruction + text,)) for i, text in enumerate(texts)]
        elif images is not None:
            records = [_record(str(i), (_reference(image), "\n")) for i, image in enumerate(images)]
        else:
            records = [_document(document) for document in documents or ()]
        kind: Literal["query", "document"] = "document" if texts is None else "query"
        return self.encoder(batch_size).encode(records, kind)

    def encoder(
        self, batch_size: int = 16, documents: DocumentSource | None = None, loader: dict[str, Any] | None = None
    ) -> Encoder:
        """What makes vectors of records, for streams larger than a list; see ``polylens.retrieval.encode``."""
        checkpoint = self.checkpoint
        return Encoder(
            lambda batch: checkpoint.model(batch, outputs=frozenset({"hidden"})),
            checkpoint.preparer(ImageOpener(None, documents), "plain"),
            checkpoint.collator(),
            checkpoint.card,
            self.device,
            batch_size,
            loader or {},
        )

    def save(self, folder: str | Path, layout: str = "original") -> Path:
        """Write a model folder (an adapter folder, if the model has one) with ``polylens.json``.

        Args:
            layout: how weights are named on disk; ``original`` is the family's first layout.

        Raises:
            InputError: the family cannot write that layout.
        """
        from polylens.engine.saving import save_model_folder

        layouts = self.checkpoint.family.layouts
        if layout not in ("original", layouts[0].name):
            raise InputError(f"layout {layout!r} cannot be written; it can: original ({layouts[0].name})")
        target = Path(os.fspath(folder))
        save_model_folder(self.checkpoint, target, self.checkpoint.card)
        return target


def _record(id: str, parts: tuple[str | ImageRef, ...]) -> Record:
    return Record(id, (Message("user", parts),))


def _document(document: Document) -> Record:
    parts = (ImageRef("bytes", document.image), "\n" + document.text) if document.image else (document.text,)
    return _record(document.id, parts)


def _reference(image: Image | bytes | str | Path) -> ImageRef:
    """The picture as encoded bytes, without loss."""
    if isinstance(image, bytes):
        return ImageRef("bytes", image)
    if isinstance(image, str | Path):
        try:
            return ImageRef("bytes", Path(image).read_bytes())
        except OSError as error:
            raise InputError(f"{image}: cannot be read: {error.strerror}") from error
    import io

    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "PNG", compress_level=1)
    return ImageRef("bytes", buffer.getvalue())
