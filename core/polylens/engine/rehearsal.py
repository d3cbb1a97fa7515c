"""Saving, tried before training: what fails at the end of a long run costs the run."""

from __future__ import annotations

import logging
import shutil
import tempfile
from pathlib import Path
from typing import Any

from transformers import GenerationConfig, PreTrainedModel

from polylens.engine.loading import Checkpoint
from polylens.engine.weights import has_adapter, own_weights
from polylens.errors import InputError

log = logging.getLogger(__name__)

FILE = "generation_config.json"
_OF_SAMPLING = ("temperature", "top_p", "min_p", "top_h", "typical_p", "top_k", "epsilon_cutoff", "eta_cutoff")
_OF_BEAMS = ("early_stopping", "length_penalty")
"""Settings that mean nothing without sampling, and without beams; transformers then refuses to save them."""


def repair_generation_config(model: PreTrainedModel, folder: Path) -> None:
    """Take out of a model's settings of generation what transformers would not save, if it has no effect.

    Published files have ``temperature`` without ``do_sample`` (Vicuna's, and so LLaVA's: its issues 1144, 1252, 1406).

    Args:
        folder: where the model comes from, for messages.

    Raises:
        InputError: the settings contradict each other in another way.
    """
    config: Any = getattr(model, "generation_config", None)
    if config is None or _problem(config) is None:
        return
    idle = [name for name in _idle(config) if getattr(config, name, None) is not None]
    for name in idle:
        setattr(config, name, None)
    problem = _problem(config)
    if problem is not None:
        raise InputError(f"{folder / FILE}: transformers refuses to save it: {problem}; correct the file")
    log.warning(
        "%s: %s of no effect without do_sample or num_beams, and transformers refuses to save it so: left out of what "
        "this run writes",
        folder / FILE,
        " and ".join(idle) + (" is" if len(idle) == 1 else " are"),
    )


def _idle(config: GenerationConfig) -> tuple[str, ...]:
    sampling = () if config.do_sample is True else _OF_SAMPLING
    return sampling + (() if (config.num_beams or 1) > 1 else _OF_BEAMS)


def _problem(config: GenerationConfig) -> str | None:
    try:
        config.validate(strict=True)
    except ValueError as error:
        return " ".join(str(error).split())
    return None


def rehearse_saving(checkpoint: Checkpoint, folder: Path) -> None:
    """Write all that a model folder holds beside its weights, and see whether there is room for these.

    Args:
        folder: where the model is to be; it need not exist.

    Raises:
        InputError: something cannot be written there.
    """
    place = next(path for path in (folder, *folder.resolve().parents) if path.is_dir())
    needed, free = saved_bytes(checkpoint.model), shutil.disk_usage(place).free
    if free < needed:
        raise InputError(f"{folder}: the model that is saved takes {needed:,} bytes, and the disk has {free:,} left")
    try:
        with tempfile.TemporaryDirectory(dir=place, prefix=".rehearsal") as there:
            checkpoint.model.config.save_pretrained(there)
            if getattr(checkpoint.model, "generation_config", None) is not None:
                checkpoint.model.generation_config.save_pretrained(there)
            checkpoint.card.save(Path(there))
    except (OSError, TypeError, ValueError) as error:
        raise InputError(f"{folder}: the model could not be saved there after training: {error}") from error


def saved_bytes(model: PreTrainedModel) -> int:
    """Bytes of the weights that are written; if there is an adapter, of what is trained."""
    if has_adapter(model):
        return sum(_bytes(weight) for weight in model.parameters() if weight.requires_grad)
    return sum(map(_bytes, {id(weight): weight for weight in own_weights(model).values()}.values()))


def _bytes(weight: Any) -> int:
    """Also of a weight that ZeRO-3 has parted."""
    return getattr(weight, "ds_numel", weight.numel()) * weight.element_size()
