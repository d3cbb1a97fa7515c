"""Batches into answers."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

import torch
from transformers import StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import TextStreamer

from polylens.contracts import Batch
from polylens.engine.loading import Checkpoint
from polylens.errors import InputError
from polylens.generation.options import GenerationOptions


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model said.

    Attributes:
        text: without special tokens, and without white space around it.
        tokens: how many, without the one that ends it.
        finished: whether the model ended it, rather than the limit of ``max_new_tokens``.
    """

    text: str
    tokens: int
    finished: bool


class Generator:
    """Answers batches of prompts.

    Args:
        device: where the model takes its input.
        keep_special_tokens: leave special tokens in the text, such as the ``<box>`` of models that point at things.
        synced_ranks: every rank generates as long as the longest, as ZeRO-3 needs it.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        options: GenerationOptions,
        device: torch.device,
        *,
        keep_special_tokens: bool = False,
        synced_ranks: bool = False,
    ) -> None:
        self._model: Any = checkpoint.model
        self._tokenizer: Any = checkpoint.tokenizer
        self._stops = frozenset(checkpoint.template.stop_ids)
        self._options, self._device, self._synced = options, device, synced_ranks
        self._drop_special = not keep_special_tokens
        pad = self._tokenizer.pad_token_id
        stops = list(checkpoint.template.stop_ids)
        self._config = options.config(stops, stops[0] if pad is None else pad)

    def answers(self, batch: Batch, number: int = 0) -> list[Answer]:
        """An answer to each row of a batch that is padded on the left.

        Args:
            number: of the batch; what is drawn depends on it and the seed alone, not on batches before it.
        """
        with self._drawing(number):
            ids = self._generate(batch)
        return [self._answer(row) for row in ids.tolist()]

    def stream(self, batch: Batch, number: int = 0) -> Iterator[str]:
        """The answer to a batch of one row, piece by piece; pieces end where words do.

        The model runs in a thread. Leaving the iterator ends it at the next token.
        """
        if self._options.num_beams > 1:
            raise InputError("an answer of a beam search is known at its end alone: stream with num_beams 1")
        pieces = _Pieces(self._tokenizer, self._drop_special, self._stops)
        stop = _Stop()
        thread = threading.Thread(target=self._feed, args=(batch, number, pieces, stop), daemon=True)
        thread.start()
        try:
            yield from pieces.received()
        finally:
            stop.told = True
            thread.join()

    def _feed(self, batch: Batch, number: int, pieces: _Pieces, stop: _Stop) -> None:
        try:
            with self._drawing(number):
                self._generate(batch, streamer=pieces, stopping_criteria=StoppingCriteriaList([stop]))
        except BaseException as error:  # noqa: BLE001  the reader of the pieces raises it
            pieces.fail(error)

    def _generate(self, batch: Batch, **options: Any) -> torch.Tensor:
        with torch.no_grad():
            return self._model.generate(
                batch.to(self._device),
                generation_config=self._config,
                logits_processor=self._options.processors(),
                synced_gpus=self._synced,
                **options,
            )

    def _answer(self, ids: Sequence[int]) -> Answer:
        """Everything before the first stop token; what comes after is padding, whatever its id."""
        length = next((place for place, token in enumerate(ids) if token in self._stops), len(ids))
        text = self._tokenizer.decode(
            ids[:length], skip_special_tokens=self._drop_special, clean_up_tokenization_spaces=False
        )
        return Answer(text.strip(), length, length < len(ids))

    @contextmanager
    def _drawing(self, number: int) -> Iterator[None]:
        """Random numbers that follow from the seed and the batch alone; those of the caller stay as they are."""
        accelerators = [self._device] if self._device.type == "cuda" else []
        with torch.random.fork_rng(devices=accelerators):
            torch.manual_seed(random.Random(f"{self._options.seed}:{number}").getrandbits(63))
            yield


class _Stop(StoppingCriteria):
    """Ends generation at the next token once it was told to."""

    def __init__(self) -> None:
        self.told = False

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        return torch.full((len(input_ids),), self.told, dtype=torch.bool, device=input_ids.device)


class _Pieces(TextStreamer):
    """Text as it is generated, from the thread of the model to that of the reader."""

    def __init__(self, tokenizer: Any, drop_special: bool, stops: frozenset[int]) -> None:
        super().__init__(
            tokenizer, skip_prompt=True, skip_special_tokens=drop_special, clean_up_tokenization_spaces=False
        )
        self._stops = torch.tensor(sorted(stops))
        self._queue: SimpleQueue[str | BaseException | None] = SimpleQueue()

    def put(self, value: torch.Tensor) -> None:
        if not self.next_tokens_are_prompt:
            value = value.flatten()
            value = value[~torch.isin(value, self._stops)]
        super().put(value)  # type: ignore[arg-type]

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        self._queue.put(text)
        if stream_end:
            self._queue.put(None)

    def fail(self, error: BaseException) -> None:
        self._queue.put(error)

    def received(self) -> Iterator[str]:
        while (found := self._queue.get()) is not None:
            if isinstance(found, BaseException):
                raise found
            if found:
                yield found
