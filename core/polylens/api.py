"""polylens from Python: ``load``, ``train``, and the model with everything around it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, overload

import torch
from PIL.Image import Image
from torch import Tensor

from polylens.config.run import RunConfig
from polylens.config.stages import Stage
from polylens.contracts import Batch, Example, ImageRef, Message, Outputs, Record, SlicedImage
from polylens.data.documents import Document, DocumentSource
from polylens.data.images import ImageOpener, encoded_image
from polylens.engine.loading import Checkpoint, load_checkpoint
from polylens.engine.merge import Merged, merge_adapter
from polylens.engine.placement import Placement, place
from polylens.engine.tasks import MakeEvaluator
from polylens.engine.training import TrainingResult
from polylens.errors import InputError, closest
from polylens.generation.chat import asked, message, stream_reply
from polylens.generation.generator import Answer
from polylens.generation.options import GenerationOptions
from polylens.generation.predictor import Predictor
from polylens.generation.prompts import question
from polylens.retrieval.encode import Encoder

__all__ = ["VLM", "Merged", "RunConfig", "load", "merge", "train", "train_stages"]


def load(
    plugin: str | None,
    source: str | Path,
    *,
    base: str | Path | None = None,
    options: Mapping[str, Any] | None = None,
    dtype: str = "auto",
    device: str | torch.device | None = None,
    attn_implementation: str = "sdpa",
    seed: int = 0,
    placement: Placement | None = None,
) -> VLM:
    """Load a vision-language model through its plugin.

    Args:
        plugin: name of an installed plugin; ``None`` if the folder's ``polylens.json`` names it.
        source: model folder, adapter folder, hub id, or preset such as ``tiny``.
        base: model under an adapter, instead of the one that the adapter names.
        options: of the model family, such as ``{"max_slice_nums": 4}``.
        dtype: of the weights; ``auto`` takes the checkpoint's own.
        device: by default the accelerator if there is one.
        seed: of a preset's random weights.
        placement: spreads the model over several devices, for inference, in place of ``device``.

    Raises:
        InputError: the plugin, the model or an option cannot be used.

    >>> import polylens
    >>> vlm = polylens.load("minicpmv", "tiny")
    >>> vlm.embed(texts=["a page about pumps"]).shape[0]
    1
    """
    chosen = "cpu" if placement else device or torch.accelerator.current_accelerator() or "cpu"
    checkpoint = load_checkpoint(
        plugin,
        str(source),
        base=None if base is None else str(base),
        options=options,
        dtype=dtype,
        device=chosen,
        attn_implementation=attn_implementation,
        seed=seed,
    )
    checkpoint.model.eval()
    return VLM(checkpoint, place(checkpoint.model, placement) if placement else torch.device(chosen))


def train(config: RunConfig) -> TrainingResult:
    """Train a model as ``config`` says; the same as ``polylens train``.

    Raises:
        InputError: anything in the configuration, the data or the model that cannot be used.
    """
    from polylens.engine import training
    from polylens.generation.validation import generation_evaluator
    from polylens.retrieval.validation import retrieval_evaluator

    evaluators: dict[str, MakeEvaluator] = {"pairs": retrieval_evaluator}
    if config.data.validation_answers:
        evaluators["conversations"] = generation_evaluator(config.data)
    return training.train(config, evaluators)


def train_stages(stages: Sequence[Stage]) -> Iterator[tuple[Stage, TrainingResult | None]]:
    """Train stages one after the other, each from the model of another; ``polylens.config.stages`` reads them.

    Yields:
        Each stage with what came out of it; ``None`` for one that was done before.

    Raises:
        InputError: as ``train``; a stage was begun with other options.
    """
    from polylens.engine import stages as engine

    return engine.train_stages(stages, train)


def merge(
    adapter: str | Path,
    output: str | Path,
    *,
    plugin: str | None = None,
    base: str | Path | None = None,
    dtype: str | None = None,
) -> Merged:
    """Make one model folder of an adapter and its base, weight by weight; the same as ``polylens merge``.

    Args:
        adapter: adapter folder, in any layout.
        output: a folder that does not exist; it appears when it is complete.
        plugin: that knows the model; by default the one that ``polylens.json`` names.
        base: instead of the one that the adapter names.
        dtype: of the result, such as ``bfloat16``; by default every weight keeps the type that it has in the base.

    Raises:
        InputError: the folder is no adapter, was made for another base, or cannot be merged; ``output`` exists.

    >>> import polylens, tempfile
    >>> from peft import LoraConfig
    >>> vlm = polylens.load("minicpmv", "tiny")
    >>> vlm.checkpoint.model.add_adapter(LoraConfig(target_modules=["q_proj"]))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     merged = polylens.merge(vlm.save(f"{folder}/adapter"), f"{folder}/model", base="tiny")
    ...     polylens.load(None, merged.folder).embed(texts=["a page about pumps"]).shape[0]
    1
    """
    return merge_adapter(adapter, output, plugin=plugin, base=None if base is None else str(base), dtype=dtype)


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
            pages = [ImageRef("bytes", encoded_image(image)) for image in images]
            records = [_record(str(i), (page, "\n")) for i, page in enumerate(pages)]
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

    def predict(
        self,
        records: Sequence[Record],
        *,
        batch_size: int = 8,
        max_length: int | None = None,
        image_root: Path | None = None,
        documents: DocumentSource | None = None,
        **options: Any,
    ) -> list[Answer]:
        """Answers to the last user turn of each record; a last assistant turn is not shown to the model.

        Args:
            batch_size: records that are answered at a time; greedy answers do not depend on it.
            max_length: tokens of a prompt; its text is shortened to fit, never a picture.
            image_root: where relative picture paths start.
            documents: where pictures of documents lie.
            options: of ``polylens.generation.options.GenerationOptions``, such as ``max_new_tokens`` and
                ``temperature``.

        Raises:
            InputError: a record or an option cannot be used.

        >>> import polylens
        >>> from polylens.contracts import Message, Record
        >>> vlm = polylens.load("minicpmv", "tiny")
        >>> answer, = vlm.predict([Record("r", (Message("user", ("What is a pump?",)),))], max_new_tokens=4)
        >>> answer.tokens <= 4
        True
        """
        images = ImageOpener(image_root, documents)
        predictor = Predictor(self.checkpoint, _generation(options), images, self.device, batch_size, max_length)
        return predictor.answers([question(record).record for record in records])

    @overload
    def chat(
        self, messages: Sequence[Message | Mapping[str, Any]], *, stream: Literal[False] = False, **options: Any
    ) -> str: ...

    @overload
    def chat(
        self, messages: Sequence[Message | Mapping[str, Any]], *, stream: Literal[True], **options: Any
    ) -> Iterator[str]: ...

    def chat(
        self, messages: Sequence[Message | Mapping[str, Any]], *, stream: bool = False, **options: Any
    ) -> str | Iterator[str]:
        """The answer to a conversation whose last turn is the user's.

        Args:
            messages: ``Message``, or ``{"role": ..., "content": ...}`` with a text, or a list of texts and pictures
                (``PIL.Image.Image``, encoded ``bytes``, or a ``Path``).
            stream: give the answer piece by piece, as it is made; leaving the iterator stops the model.
            options: as for ``predict``.

        Raises:
            InputError: a message or an option cannot be used.

        >>> import polylens, PIL.Image
        >>> vlm = polylens.load("minicpmv", "tiny")
        >>> asked = [{"role": "user", "content": [PIL.Image.new("RGB", (90, 60)), "What is this?"]}]
        >>> pieces = list(vlm.chat(asked, stream=True, max_new_tokens=4))
        >>> "".join(pieces).strip() == vlm.chat(asked, max_new_tokens=4)
        True
        """
        turns = [message(value) for value in messages]
        predictor = Predictor(self.checkpoint, _generation(options), ImageOpener(), self.device)
        return stream_reply(predictor, turns) if stream else predictor.answers([asked(turns)])[0].text

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


def _generation(options: dict[str, Any]) -> GenerationOptions:
    known = {field.name for field in fields(GenerationOptions)}
    unknown = next((name for name in options if name not in known), None)
    if unknown is not None:
        raise InputError(f"no option {unknown!r}{closest(unknown, known)}; generation has: {', '.join(sorted(known))}")
    return GenerationOptions(**options)


def _record(id: str, parts: tuple[str | ImageRef, ...]) -> Record:
    return Record(id, (Message("user", parts),))


def _document(document: Document) -> Record:
    parts = (ImageRef("bytes", document.image), "\n" + document.text) if document.image else (document.text,)
    return _record(document.id, parts)
