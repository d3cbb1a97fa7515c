"""What a run tells while it goes: a line on the console, and a line of ``metrics.jsonl``, for every log."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from tqdm import tqdm
from transformers import TrainerCallback
from transformers.trainer_callback import ProgressCallback

from polylens.files import write_text

METRICS_FILE = "metrics.jsonl"


class MetricsFile(TrainerCallback):
    """Appends every log to ``metrics.jsonl``. A resumed run first drops what the lost steps had written."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / METRICS_FILE

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero and self._path.exists():
            lines = self._path.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= state.global_step]
            write_text(self._path, kept)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": state.global_step, **(logs or {})}) + "\n")


class ConsoleLine(ProgressCallback):
    """A progress bar on a terminal, and logs as readable lines everywhere."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            off = args.disable_tqdm or None  # None: off where there is no terminal
            # A resumed run starts where it stopped, or the bar's speed would count the steps of the run before.
            self.training_bar = tqdm(total=state.max_steps, initial=state.global_step, dynamic_ncols=True, disable=off)
        self.current_step = state.global_step

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if state.is_world_process_zero and logs:
            line = f"step {state.global_step}/{state.max_steps}  {describe(logs)}"
            tqdm.write(line)


def describe(logs: dict[str, Any]) -> str:
    """Figures in a fixed order, four significant digits each.

    >>> describe({"loss": 0.123456, "epoch": 1.0, "accuracy": 0.5})
    'loss 0.1235  accuracy 0.5'
    """
    hidden = ("epoch", "total_flos", "step")
    return "  ".join(f"{name} {_short(value)}" for name, value in logs.items() if name not in hidden)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) and math.isfinite(value) else str(value)
