"""Checks a DeepSpeed configuration before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from polylens.config.json_text import parse_json
from polylens.errors import InputError

_OVERRIDES = {
    "optimizer": "it would replace the run's optimizer and its parameter groups; set --optim, --learning_rate, "
    "--weight_decay, --adam_beta1, --adam_beta2 instead",
    "scheduler": "it would replace the run's schedule without a word (WarmupLR in the originals' files silently took "
    "the place of cosine); set --lr_scheduler_type and --warmup_steps instead",
}


def check_deepspeed(value: str | Mapping[str, Any]) -> dict[str, Any]:
    """The DeepSpeed configuration of a run, ready for ``TrainingArguments(deepspeed=...)``.

    ``gradient_clipping`` becomes ``"auto"`` where it is absent, so that the run's ``max_grad_norm`` counts: DeepSpeed
    clips at 1.0 by itself since 0.19.3.

    Args:
        value: path of a JSON file, JSON text, or the configuration itself.

    Raises:
        InputError: there is no such file, it is not a JSON object, or it has an ``optimizer`` or ``scheduler`` block.
    """
    where, config = ("deepspeed", value) if isinstance(value, Mapping) else _read(value)
    if not isinstance(config, Mapping):
        raise InputError(f"{where}: a DeepSpeed configuration is a JSON object, not {type(config).__name__}")
    found = [f"/{block}: {reason}" for block, reason in _OVERRIDES.items() if block in config]
    if found:
        raise InputError(f"{where}: " + "; ".join(found))
    return {"gradient_clipping": "auto", **config}


def _read(value: str) -> tuple[str, Any]:
    """Where the configuration comes from, and what it says."""
    inline = value.lstrip().startswith("{")
    where = "deepspeed" if inline else value
    try:
        return where, parse_json(value if inline else Path(value).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read the DeepSpeed file {value!r}: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"{where}: not JSON: {error}") from error
