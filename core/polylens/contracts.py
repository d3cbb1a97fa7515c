"""The types that cross the plugin contract.

A record becomes an example (slice, resize, tokenise; in data-loader workers), examples become a batch, a model turns
a batch into outputs, and an objective turns outputs into a loss. Nothing here imports torch or transformers: plugins
are discovered and listed without them.

Shapes use these letters: B rows of a batch, T tokens of the longest row, N crops, V visual tokens, D hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image
    from torch import Tensor, nn

    from polylens.composition import Composition

__all__ = [
    "ALL_LINEAR",
    "IGNORE_INDEX",
    "ROLES",
    "Batch",
    "ChatTemplate",
    "CheckpointLayout",
    "Collator",
    "Coupled",
    "Crop",
    "Encoding",
    "Example",
    "ImagePreprocessor",
    "ImageRef",
    "ImageSlicer",
    "Message",
    "ModelFamily",
    "Objective",
    "Outputs",
    "PairTargets",
    "Record",
    "Representation",
    "SlicedImage",
]

IGNORE_INDEX = -100
"""Label of a position that no loss sees."""

ALL_LINEAR = "all-linear"
"""Name that stands for every linear layer, as in peft: for families whose language model may be any."""

ROLES = ("query", "document")
"""What a row of a retrieval batch is; ``Batch.rows["role"]`` holds the index, -1 for a row that stands for nothing."""


@dataclass(frozen=True, slots=True)
class ImageRef:
    """A picture that a record names, not yet opened.

    ``kind`` says what ``value`` is: a ``path`` under the image root, the id of a ``document`` in the document store,
    or the ``bytes`` of an encoded picture.
    """

    kind: Literal["path", "document", "bytes"]
    value: str | bytes


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation: text and pictures in their order."""

    role: Literal["system", "user", "assistant"]
    parts: tuple[str | ImageRef, ...]


@dataclass(frozen=True, slots=True)
class Record:
    """One validated line of a data set. ``where`` (``file:line``) names it in error messages."""

    id: str
    messages: tuple[Message, ...]
    where: str = ""

    @property
    def images(self) -> tuple[ImageRef, ...]:
        """Every picture, in reading order."""
        return tuple(part for message in self.messages for part in message.parts if isinstance(part, ImageRef))


@dataclass(frozen=True, slots=True)
class Crop:
    """A rectangle that the vision tower sees.

    The picture is resized to ``scaled`` (width, height) and the ``window`` (left, top, right, bottom) is cut out of
    it, both in pixels; a window may reach outside the scaled picture where a family pads. ``tokens`` visual tokens
    come out of it.
    """

    scaled: tuple[int, int]
    window: tuple[int, int, int, int]
    tokens: int

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels, as the vision tower sees the crop."""
        left, top, right, bottom = self.window
        return right - left, bottom - top


@dataclass(frozen=True, slots=True)
class SlicedImage:
    """How a picture is cut. It follows from the picture's size alone, so planning needs no pixels.

    Attributes:
        size: width and height of the original picture.
        crops: in the order in which their visual tokens appear in the sequence.
        grid: columns and rows of the slices, or ``None`` if the picture was not sliced.
        token_boxes: float32 [V, 4], left, top, right, bottom of every visual token in pixels of the original picture.
            A resampled token, which has no place of its own, carries the box of its slice.
    """

    size: tuple[int, int]
    crops: tuple[Crop, ...]
    grid: tuple[int, int] | None
    token_boxes: np.ndarray

    @property
    def visual_tokens(self) -> int:
        return sum(crop.tokens for crop in self.crops)


class ImageSlicer(Protocol):
    """What the hook ``image_slicer`` returns."""

    def slice(self, size: tuple[int, int]) -> SlicedImage:
        """Decide the crops of a picture of ``size`` (width, height)."""
        ...


class ImagePreprocessor(Protocol):
    """What the hook ``image_preprocessor`` returns. Pixels stay uint8 until the device.

    ``mean`` and ``std``, one value a channel in the range 0 to 1, are what the model applies on the device.
    """

    mean: Sequence[float]
    std: Sequence[float]

    def pixels(self, image: Image, sliced: SlicedImage) -> list[Tensor]:
        """The crops of an RGB picture: uint8 [3, H, W] each."""
        ...


@dataclass(frozen=True, slots=True)
class Encoding:
    """A conversation as tokens.

    Attributes:
        input_ids: token ids, [T].
        labels: [T], **not** shifted: ``labels[i]`` is ``input_ids[i]`` where the token is supervised, else -100.
        visual_mask: [T], true where the embedding is replaced by a visual token, in the order of the crops.
    """

    input_ids: list[int]
    labels: list[int]
    visual_mask: list[bool]


class ChatTemplate(Protocol):
    """What the hook ``chat_template`` returns; the same object serves training and inference.

    ``stop_ids`` are the tokens that end an answer; generation stops at any of them.
    """

    stop_ids: Sequence[int]

    def encode(
        self,
        messages: Sequence[Message],
        images: Sequence[SlicedImage],
        *,
        style: Literal["chat", "plain"] = "chat",
        generation_prompt: bool = False,
        max_length: int | None = None,
    ) -> Encoding:
        """Tokens of a conversation.

        Args:
            images: one per ``ImageRef`` of the messages, in reading order.
            style: ``chat`` writes the role tags of the family; ``plain`` writes the parts of a single message as
                they are, as embedding models want it.
            generation_prompt: end with the header of an assistant turn.
            max_length: text is shortened to fit, never a picture.

        Raises:
            InputError: the pictures alone do not fit into ``max_length``; a text contains an image token; the number
                of ``images`` is not the number of picture parts.
        """
        ...


@dataclass(slots=True)
class Example:
    """A record after preprocessing.

    Attributes:
        id: of the record.
        input_ids: int64 [T].
        labels: int64 [T], not shifted, -100 where nothing is supervised.
        visual_mask: bool [T].
        pixels: uint8 [3, H, W] per crop.
        crop_tokens: visual tokens of each crop; they sum to ``visual_mask.sum()``.
        images: how each picture was cut.
        rows: further values of the row (numbers or tensors), stacked by the collator into ``Batch.rows``.
    """

    id: str
    input_ids: Tensor
    labels: Tensor
    visual_mask: Tensor
    pixels: list[Tensor]
    crop_tokens: list[int]
    images: tuple[SlicedImage, ...] = ()
    rows: dict[str, Any] = field(default_factory=dict)

    @property
    def cost(self) -> int:
        """Visual and text tokens."""
        return len(self.input_ids)


@dataclass(slots=True)
class Batch:
    """Collated examples, of which any subset of rows can be taken.

    Attributes:
        ids: record id of each row.
        input_ids: int64 [B, T].
        attention_mask: bool [B, T], false on padding.
        labels: int64 [B, T], not shifted.
        visual_mask: bool [B, T]: where visual tokens replace embeddings, in the order of the crops.
        pixels: uint8 [3, H, W] per crop, crops of the first row first.
        crop_rows: int64 [N], the row of each crop, ascending.
        crop_tokens: int64 [N], visual tokens of each crop.
        costs: int64 [B], visual and text tokens of each row.
        features: what the vision tower made of each crop ([L_i, D] each), in place of ``pixels``.
        rows: further tensors with one entry a row.
        crop_sizes: int64 [N, 2], height and width of each crop in pixels: with ``features``, all that is left of the
            shape of a crop.
    """

    ids: list[str]
    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor
    visual_mask: Tensor
    pixels: list[Tensor]
    crop_rows: Tensor
    crop_tokens: Tensor
    costs: Tensor
    features: list[Tensor] | None = None
    rows: dict[str, Tensor] = field(default_factory=dict)
    crop_sizes: Tensor | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def pixel_bytes(self) -> int:
        """Host or device memory of the pixels."""
        return sum(crop.numel() * crop.element_size() for crop in self.pixels)

    def take(self, rows: Sequence[int]) -> Batch:
        """The given rows, in the given order, without the columns that are padding in all of them."""
        import torch

        index = torch.as_tensor(rows, dtype=torch.long, device=self.input_ids.device)
        columns = self.attention_mask[index].any(dim=0)
        crops = [i for row in rows for i in (self.crop_rows == row).nonzero().flatten().tolist()]
        owners = [i for i, row in enumerate(rows) for _ in range(int((self.crop_rows == row).sum()))]
        chosen = torch.tensor(crops, dtype=torch.long, device=index.device)
        return Batch(
            ids=[self.ids[row] for row in rows],
            input_ids=self.input_ids[index][:, columns],
            attention_mask=self.attention_mask[index][:, columns],
            labels=self.labels[index][:, columns],
            visual_mask=self.visual_mask[index][:, columns],
            pixels=[self.pixels[i] for i in crops] if self.features is None else [],
            crop_rows=torch.tensor(owners, dtype=torch.long, device=index.device),
            crop_tokens=self.crop_tokens[chosen],
            costs=self.costs[index],
            features=None if self.features is None else [self.features[i] for i in crops],
            rows={name: value[index] for name, value in self.rows.items()},
            crop_sizes=None if self.crop_sizes is None else self.crop_sizes[chosen],
        )

    def to(self, device: Any, *, non_blocking: bool = False) -> Batch:
        """The same batch on another device; integer and boolean tensors keep their type."""

        def move(value: Tensor) -> Tensor:
            return value.to(device, non_blocking=non_blocking)

        return replace(
            self,
            input_ids=move(self.input_ids),
            attention_mask=move(self.attention_mask),
            labels=move(self.labels),
            visual_mask=move(self.visual_mask),
            pixels=[move(crop) for crop in self.pixels],
            crop_rows=move(self.crop_rows),
            crop_tokens=move(self.crop_tokens),
            costs=move(self.costs),
            features=None if self.features is None else [move(feature) for feature in self.features],
            rows={name: move(value) for name, value in self.rows.items()},
            crop_sizes=None if self.crop_sizes is None else move(self.crop_sizes),
        )


class Collator(Protocol):
    """What the hook ``collator`` returns."""

    def __call__(self, examples: Sequence[Example]) -> Batch: ...


@dataclass  # without slots: ZeRO-3 looks for tensors in the ``vars`` of what a module returns
class Outputs:
    """What a model's ``forward(batch, outputs={...})`` returns: the fields that were asked for, else ``None``.

    Attributes:
        hidden: [B, T, D], the last hidden states after the final norm.
        logits: [n, vocabulary], at the positions given as ``logit_positions`` (bool [B, T]); all of them by default.
        vision: the vision tower's features, one tensor [L_i, D_vision] per crop.
        connector: [V, D], the visual tokens that went into the sequence, in the order of the crops.
        embeddings: [..., D], the input embeddings of ``embed_ids``.
        head: makes logits [n, vocabulary] of hidden states [n, D]. The engine, not the model, puts it here, for an
            objective whose ``inputs_needed`` has ``logits``: so many logits at a time as it wants.
    """

    hidden: Tensor | None = None
    logits: Tensor | None = None
    vision: list[Tensor] | None = None
    connector: Tensor | None = None
    embeddings: Tensor | None = None
    head: Callable[[Tensor], Tensor] | None = None


@dataclass(frozen=True, slots=True)
class CheckpointLayout:
    """One way in which the weights of a family are named on disk.

    ``renames`` maps regular expressions over names on disk to names in the model, as ``key_mapping`` of
    ``PreTrainedModel.from_pretrained`` takes them. It is empty where both agree.

    ``parts``, for a model whose parts lie in folders of their own, maps each of these folders to what its names begin
    with in the model. Such a layout is read, never written.
    """

    name: str
    description: str = ""
    renames: Mapping[str, str] = field(default_factory=dict)
    parts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ModelFamily:
    """What the core needs to know of a model family before any weight is loaded.

    Attributes:
        name: unique within the plugin, such as ``minicpmv-2.0``.
        description: one line for ``polylens plugins list --families``.
        recognises: whether a checkpoint's ``config.json`` belongs to this family.
        components: component (``vision``, ``connector``, ``llm``, ``embed_tokens``) -> paths of its modules in the
            model. ``embed_tokens`` may lie inside ``llm``; the longest path wins.
        lora_targets: component -> names of the linear layers that LoRA adapts by default; ``ALL_LINEAR`` stands for
            all of the component, but for the output head.
        presets: name -> a folder of the plugin that holds ``config.json`` and a tokenizer, and no weights: the model
            starts from random weights. ``tiny`` must exist and train on a laptop CPU.
        layouts: how weights are named on disk; the first is the one that ``save`` writes.
        options: a dataclass of the family's own options with defaults (slicing limits, ``compat``). Its instance is
            what the hooks receive as ``options``.
        defaults: run options that published checkpoints of the family were trained with, such as
            ``{"pooling": "wmean"}``.
        beside_adapter: names of files (``torch.save``) that older programs of the family put beside an adapter, with
            whole modules which were trained along with it.
        composition: how a new model is made of parts; ``None`` if models of the family are always whole.
    """

    name: str
    description: str
    recognises: Callable[[Mapping[str, Any]], bool]
    components: Mapping[str, tuple[str, ...]]
    lora_targets: Mapping[str, tuple[str, ...]]
    presets: Mapping[str, Path]
    layouts: tuple[CheckpointLayout, ...]
    options: type
    defaults: Mapping[str, Any] = field(default_factory=dict)
    beside_adapter: tuple[str, ...] = ()
    composition: Composition | None = None


@dataclass(slots=True)
class Representation:
    """Vectors that an objective couples across the batch.

    Attributes:
        values: [n, D] of the rows that this rank, or this micro-batch, made.
        positions: int64 [n], the place of each vector among all vectors of its name in the global batch, so that the
            result does not depend on how the batch was cut. ``None``: in the order in which they were made.
    """

    values: Tensor
    positions: Tensor | None = None


@dataclass(slots=True)
class PairTargets:
    """Which document answers which query, over the whole global batch.

    Attributes:
        positive: int64 [Q], for each query the position of its document.
        ignore: int64 [M, 2], pairs (query, document) that are relevant, or the same as a relevant one, without being
            the target: false negatives, left out of every denominator.
    """

    positive: Tensor
    ignore: Tensor


@dataclass(slots=True)
class Coupled:
    """What ``Objective.coupled`` returns; every part is this rank's share, and ranks are summed.

    Attributes:
        loss: scalar.
        gradients: name -> [n_global, D], the derivative of this rank's share with respect to **all** vectors.
        parameter_gradients: name of a parameter of the objective -> derivative of this rank's share.
        metrics: figures to log, sums over this rank's own rows (``accuracy`` counts hits, for example).
    """

    loss: Tensor
    gradients: dict[str, Tensor]
    parameter_gradients: dict[str, Tensor] = field(default_factory=dict)
    metrics: dict[str, Tensor] = field(default_factory=dict)


class Objective:
    """What is minimised: a sum over examples (``additive``), a function of all representations of the global batch
    (``coupled``), or both.

    The engine calls ``normalisers`` on every micro-batch and sums over micro-batches and ranks before the first
    backward, so that no figure depends on how the batch is cut. ``coupled`` runs once a step, without gradient
    tracking, on vectors gathered from all ranks.

    Attributes:
        inputs_needed: fields of ``Outputs`` that the objective reads; ``logits`` gives it ``hidden`` and ``head``.
        is_coupled: whether ``representations`` and ``coupled`` are used.
        records: the kind of data set it trains on.
    """

    inputs_needed: frozenset[str] = frozenset({"hidden"})
    is_coupled: bool = False
    records: Literal["pairs", "conversations"] = "conversations"

    def normalisers(self, batch: Batch) -> dict[str, float]:
        """Counts that ``additive`` divides by, such as the number of supervised tokens."""
        return {}

    def representations(self, outputs: Outputs, batch: Batch) -> dict[str, Representation]:
        """The vectors that ``coupled`` sees; an example may have any number of them, none included."""
        return {}

    def coupled(
        self,
        representations: Mapping[str, Tensor],
        own: Mapping[str, Tensor],
        targets: Any,
        parameters: Mapping[str, Tensor],
    ) -> Coupled:
        """Loss and gradient of every representation.

        Args:
            representations: name -> [n_global, D], vectors of all ranks in the order of their positions.
            own: name -> int64 [n], positions of the vectors that this rank made: it answers for their rows.
            targets: what the data set says about the global batch (``PairTargets`` for pairs), or ``None``.
            parameters: current values of ``parameters()``; under ZeRO-3 those themselves are partitioned.
        """
        raise TypeError(f"{type(self).__name__} says it is coupled but has no method coupled()")

    def additive(self, outputs: Outputs, batch: Batch, normalisers: Mapping[str, float]) -> Tensor | None:
        """The loss of a micro-batch; the global loss is the sum over micro-batches and ranks."""
        return None

    def parameters(self) -> dict[str, nn.Parameter]:
        """Trained values of the objective itself, such as a learned temperature."""
        return {}
