"""What values a run may have, beyond their types: checked before anything is read or built."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from polylens.config.deepspeed import OFFLOADED
from polylens.errors import InputError

if TYPE_CHECKING:
    from polylens.config.run import RunConfig

_INFINITE = math.inf
_SEEDS = (0, 2**32 - 1)
"""Of numpy."""

_RANGES: dict[str, tuple[float, float]] = {
    "data.query_max_length": (1, _INFINITE),
    "data.document_max_length": (1, _INFINITE),
    "data.max_length": (1, _INFINITE),
    "data.validation_answers": (0, _INFINITE),
    "data.validation_max_new_tokens": (1, _INFINITE),
    "data.hard_negatives": (0, _INFINITE),
    "lora.r": (1, _INFINITE),
    "lora.alpha": (-1e30, 1e30),
    "lora.dropout": (0, 1),
    "training.per_device_train_batch_size": (1, _INFINITE),
    "training.per_device_eval_batch_size": (1, _INFINITE),
    "training.learning_rate": (0, 1e30),
    "training.weight_decay": (0, 1e30),
    "training.adam_beta1": (0, math.nextafter(1, 0)),
    "training.adam_beta2": (0, math.nextafter(1, 0)),
    "training.adam_epsilon": (0, 1e30),
    "training.max_grad_norm": (0, 1e30),
    "training.num_train_epochs": (0, 1e12),
    "training.dataloader_num_workers": (0, _INFINITE),
    "training.seed": _SEEDS,
    "training.data_seed": _SEEDS,
}
"""The least and the greatest value of numbers that libraries refuse late, or not at all."""


def check_limits(run: RunConfig) -> None:
    """Every number in its range, every text such that it can be a path or be tokenised.

    Raises:
        InputError: all that is wrong, each with its place in a run file.
    """
    found = [problem for path, value in _leaves(asdict(run)) if (problem := _problem(path, value))]
    found += _zero_problems(run)
    if found:
        raise InputError("; ".join(found))


def _zero_problems(run: RunConfig) -> Iterator[str]:
    if run.zero is None:
        if run.offload:
            yield "/offload: it has no effect without zero: set --zero 1, 2 or 3"
        return
    if run.zero not in (1, 2, 3):
        yield f"/zero is {run.zero!r}; it must be 1, 2 or 3"
    if run.training.get("deepspeed"):
        yield "/zero and /training/deepspeed exclude each other: give --zero, or a DeepSpeed file"
    for name in run.offload:
        if name not in OFFLOADED:
            yield f"/offload: {name!r} cannot be offloaded; it may name {', '.join(OFFLOADED)}"
    if "params" in run.offload and run.zero in (1, 2):
        yield f"/offload: params has no effect on ZeRO-{run.zero}, where every rank has all weights; set --zero 3"


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaves(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            yield from _leaves(item, f"{path}.{number}")
    else:
        yield path, value


def _problem(path: str, value: Any) -> str:
    pointer = "/" + path.replace(".", "/")
    if isinstance(value, str):
        return "" if _is_plain(value) else f"{pointer}: {value!r} has a NUL or is not valid Unicode"
    least, greatest = _RANGES.get(path, (0, 0))
    if path not in _RANGES or not isinstance(value, int | float) or least <= value <= greatest:
        return ""
    upper = "" if greatest == _INFINITE else f", and at most {greatest:g}"
    return f"{pointer} is {value}; it must be at least {least:g}{upper}"


def _is_plain(text: str) -> bool:
    """A path may hold bytes that are no text, which Python keeps as surrogates; YAML cannot say them."""
    try:
        text.encode("utf-8", errors="surrogateescape")
    except UnicodeEncodeError:
        return False
    return "\0" not in text
