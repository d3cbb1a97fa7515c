"""How answers are generated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, RepetitionPenaltyLogitsProcessor

from polylens.errors import InputError


@dataclass(frozen=True, slots=True)
class GenerationOptions:
    """How answers are generated; greedy by default.

    Attributes:
        max_new_tokens: length of an answer at most.
        temperature: 0 takes the likeliest token; above it tokens are drawn, from probabilities sharpened (below 1) or
            flattened (above 1).
        top_p: draw from the likeliest tokens whose probabilities sum to this; 1 is all of them.
        top_k: draw from so many likeliest tokens; 0 is all of them.
        num_beams: sequences that a beam search follows; 1 is no beam search.
        repetition_penalty: divides the logits of tokens that the answer holds already (multiplies negative ones); 1 is
            none. Keskar et al. 2019, arXiv 1909.05858.
        seed: of the drawing.

    Raises:
        InputError: a value out of range, or one that would do nothing.
    """

    max_new_tokens: int = 1024
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    num_beams: int = 1
    repetition_penalty: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        allowed = {
            "max_new_tokens": (self.max_new_tokens >= 1, "at least 1"),
            "temperature": (0 <= self.temperature < float("inf"), "0 (the likeliest token) or above"),
            "top_p": (0 < self.top_p <= 1, "above 0 and at most 1"),
            "top_k": (self.top_k >= 0, "0 (all tokens) or above"),
            "num_beams": (self.num_beams >= 1, "at least 1"),
            "repetition_penalty": (0 < self.repetition_penalty < float("inf"), "above 0"),
        }
        for name, (holds, range_) in allowed.items():
            if not holds:
                raise InputError(f"{name} is {getattr(self, name)}; it must be {range_}")
        if not self.samples and (self.top_p, self.top_k) != (1.0, 0):
            raise InputError("top_p and top_k choose among tokens that are drawn: give a temperature above 0, too")

    @property
    def samples(self) -> bool:
        """Whether tokens are drawn at random."""
        return self.temperature > 0

    def processors(self) -> LogitsProcessorList:
        """What changes logits before a token is chosen; made anew for every batch."""
        penalised = self.repetition_penalty != 1
        return LogitsProcessorList([AnswerRepetitionPenalty(self.repetition_penalty)] if penalised else [])

    def config(self, stop_ids: Sequence[int], pad_token_id: int) -> GenerationConfig:
        """The same for transformers; what is not named here keeps the value of the model's own configuration."""
        drawn: dict[str, Any] = {"temperature": 1.0, "top_p": 1.0, "top_k": 50}  # transformers' values for "not set"
        if self.samples:
            drawn = {"temperature": self.temperature, "top_p": self.top_p, "top_k": self.top_k}
        return GenerationConfig(
            max_new_tokens=self.max_new_tokens,
            do_sample=self.samples,
            num_beams=self.num_beams,
            repetition_penalty=1.0,  # see processors
            eos_token_id=list(stop_ids),
            pad_token_id=pad_token_id,
            **drawn,
        )


class AnswerRepetitionPenalty(LogitsProcessor):
    """Penalises what the answer holds already, and not what the prompt holds.

    transformers' own option takes the padding of a prompt for tokens of the answer where the prompt is given as
    embeddings, and then spares that many: answers would depend on their neighbours in the batch.
    """

    def __init__(self, penalty: float) -> None:
        self._penalty = float(penalty)
        self._of_answer: RepetitionPenaltyLogitsProcessor | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if self._of_answer is None:  # before the first token, all there is is the prompt
            self._of_answer = RepetitionPenaltyLogitsProcessor(self._penalty, input_ids.shape[1])
        return self._of_answer(input_ids, scores)  # type: ignore[arg-type]
