"""Trains stages one after the other in one process group; what is done is not done again."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState, GradientState
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from polylens.config.card import NAME
from polylens.config.files import read_run_file
from polylens.config.run import RunConfig
from polylens.config.stages import Stage
from polylens.engine.training import RUN_FILE, TrainingResult
from polylens.errors import InputError

_NO_MATTER = ("resume_from_checkpoint", "hub_token")


def train_stages(
    stages: Sequence[Stage], train: Callable[[RunConfig], TrainingResult]
) -> Iterator[tuple[Stage, TrainingResult | None]]:
    """Train each stage, and give it with what came out; ``None`` for one that was done before.

    A stage that was begun goes on from its last checkpoint.

    Raises:
        InputError: as ``train``; a stage was begun with other options.
    """
    for stage in stages:
        _check_unchanged(stage)
        if (Path(stage.run.output_dir) / NAME).is_file():  # which appears last
            yield stage, None
            continue
        with state_of_its_own():
            training = {**stage.run.training, "resume_from_checkpoint": True}
            result = train(replace(stage.run, training=training))
        yield stage, result


def _check_unchanged(stage: Stage) -> None:
    path = Path(stage.run.output_dir) / RUN_FILE
    if not path.is_file():
        return
    changed = sorted(_differences(_told(read_run_file(path)), _told(asdict(stage.run))))
    if changed:
        raise InputError(
            f"stage {stage.name!r} was begun with other options ({', '.join(changed)}): put them back, give the stage "
            f"another name, or remove {path.parent}"
        )


def _told(run: Mapping[str, Any]) -> dict[str, Any]:
    training = {key: value for key, value in (run.get("training") or {}).items() if key not in _NO_MATTER}
    return {**run, "training": training}


def _differences(one: Any, other: Any, path: str = "") -> Iterator[str]:
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        for key in {*one, *other}:
            yield from _differences(one.get(key), other.get(key), f"{path}.{key}" if path else key)
    elif one != other:
        yield path


@contextmanager
def state_of_its_own() -> Iterator[None]:
    """transformers and accelerate keep the precision and the DeepSpeed plugin of a run for the next one."""
    environment = dict(os.environ)
    try:
        yield
    finally:
        gc.collect()  # a model and its optimizer lie in circles of references
        if torch.accelerator.is_available():
            torch.accelerator.empty_cache()
        os.environ.clear()
        os.environ.update(environment)
        AcceleratorState._reset_state(reset_partial_state=True)  # pyright: ignore[reportPrivateUsage]
        GradientState._reset_state()  # pyright: ignore[reportPrivateUsage]
        unset_hf_deepspeed_config()
