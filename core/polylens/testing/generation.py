"""Checks of generation, in float64."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig

from polylens.contracts import Example, ImageRef, Message, Record
from polylens.data.images import ImageOpener
from polylens.testing.models import forward
from polylens.testing.precision import Float64Throughout
from polylens.testing.results import Failure, require
from polylens.testing.subject import TEXTS, Subject, encoded, picture

NEW_TOKENS = 6


def answers_do_not_depend_on_the_batch(subject: Subject) -> str | None:
    """Greedy answers to eight prompts are the same one by one and together: padding on the left shows in none."""
    prompts = _prompts(subject)
    together = _answers(subject, prompts)
    for prompt, found in zip(prompts, together, strict=True):
        (alone,) = _answers(subject, [prompt])
        require(alone == found, f"prompt {prompt.id!r} is answered {alone} alone and {found} among {len(prompts)}")
    return f"{len(prompts)} prompts"


def answers_are_what_the_model_finds_likely(subject: Subject) -> str | None:
    """``generate`` says what ``forward`` finds most likely after the prompt and the tokens said so far.

    Positions that do not go on after a picture, or a cache that is wrong, fail.
    """
    prompts = _prompts(subject)
    for prompt, answer in zip(prompts, _answers(subject, prompts), strict=True):
        whole = _continued(prompt, answer)
        logits = forward(subject, subject.batch([whole]), ["logits"]).logits
        assert logits is not None
        start = len(prompt.input_ids) - 1
        likely = logits[start : start + len(answer)].argmax(dim=1).tolist()
        require(likely == answer, f"prompt {prompt.id!r}: generate says {answer}, forward {likely}")
    return None


def _prompts(subject: Subject) -> list[Example]:
    """Questions of ragged lengths: text, pictures before and after it, a second turn."""
    small, wide = encoded(picture(90, 60)), encoded(picture(150, 40, seed=1))
    questions: list[tuple[str | ImageRef, ...]] = [
        (TEXTS[0],),
        (small, "\n" + TEXTS[0]),
        (TEXTS[1],),
        (TEXTS[2], wide),
        (wide, "\n", small, "\n" + TEXTS[1]),
        (" ".join(TEXTS),),
        (small, "\n" + " ".join(TEXTS)),
    ]
    turns: list[tuple[Message, ...]] = [(Message("user", parts),) for parts in questions]
    turns.append((Message("user", (small, "\n" + TEXTS[1])), Message("assistant", ("500",)), Message("user", ("?",))))
    preparer = replace(subject.checkpoint.preparer(ImageOpener()), generation_prompt=True)
    return [preparer.example(Record(str(number), messages)) for number, messages in enumerate(turns)]


def _answers(subject: Subject, prompts: Sequence[Example]) -> list[list[int]]:
    """Greedy answers, each up to its first stop token."""
    stops = list(subject.checkpoint.template.stop_ids)
    config = GenerationConfig(
        max_new_tokens=NEW_TOKENS, do_sample=False, eos_token_id=stops, pad_token_id=stops[0], use_cache=True
    )
    model: Any = subject.model
    batch = subject.batch(list(prompts), "left")
    with torch.no_grad(), Float64Throughout():
        ids = model.generate(batch, generation_config=config)
    if not isinstance(ids, Tensor) or ids.dim() != 2 or len(ids) != len(prompts) or ids.shape[1] > NEW_TOKENS:
        shape = list(ids.shape) if isinstance(ids, Tensor) else type(ids).__name__
        raise Failure(f"generate gives {shape} for {len(prompts)} rows: it returns the new ids alone, [B, n]")
    return [_to_stop(row, stops) for row in ids.tolist()]


def _to_stop(ids: list[int], stops: Sequence[int]) -> list[int]:
    end = next((place + 1 for place, token in enumerate(ids) if token in stops), len(ids))
    return ids[:end]


def _continued(prompt: Example, answer: Sequence[int]) -> Example:
    said = torch.tensor(answer)
    return replace(
        prompt,
        input_ids=torch.cat([prompt.input_ids, said]),
        labels=torch.cat([prompt.labels, said]),
        visual_mask=torch.cat([prompt.visual_mask, torch.zeros_like(said, dtype=torch.bool)]),
    )


CHECKS = (answers_do_not_depend_on_the_batch, answers_are_what_the_model_finds_likely)
