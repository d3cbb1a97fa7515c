"""The file of a comparison: data, models, modes of training, and what all of them share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from polylens.config import schemas
from polylens.config.files import merge, read_run_file
from polylens.config.options import build_options
from polylens.errors import InputError

__all__ = [
    "ComparedModel",
    "Comparison",
    "ComparisonData",
    "PredictSettings",
    "ScoreSettings",
    "SynthesisSettings",
    "read_comparison",
]

_SAID_ELSEWHERE = {
    "model_plugin": "/models/NAME/plugin",
    "model": "/models/NAME/model",
    "options": "/models/NAME/options",
    "output_dir": "/output_dir",
}
_DATA_SAID_ELSEWHERE = ("train", "image_root")


@dataclass(frozen=True)
class SynthesisSettings:
    """Pictures with subtitles that are made for the comparison; see ``polylens data synth subtitles``."""

    images: str
    sentences: str
    count: int
    seed: int = 42
    prompt: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ComparisonData:
    """What is trained and measured on: two conversations files, or a synthesis that is divided.

    Args:
        train, test: conversations files.
        image_root: where their picture paths start; by default the folder of each file.
        synthesis: in place of both.
        test_part: of the synthetic pictures; the rest is for training.
        split_by: what stays in one part: a record (``id``) or everything with the same ``answer``.
    """

    train: str | None = None
    test: str | None = None
    image_root: str | None = None
    synthesis: SynthesisSettings | None = None
    test_part: float = 0.1
    split_by: Literal["id", "answer"] = "answer"

    def __post_init__(self) -> None:
        """Raises ``InputError`` unless there is exactly one source."""
        files = (self.train is not None, self.test is not None)
        if self.synthesis is None and not all(files):
            raise InputError("/data: give train and test, two conversations files, or synthesis")
        if self.synthesis is not None and (any(files) or self.image_root is not None):
            raise InputError("/data: synthesis makes training and test data; leave out train, test and image_root")


@dataclass(frozen=True)
class ComparedModel:
    """A model.

    Args:
        model: model folder, hub id or preset.
        options: of the model family.
        run: part of a run file that only this model has, such as ``training``.
    """

    plugin: str
    model: str
    options: dict[str, Any] = field(default_factory=dict)
    run: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class PredictSettings:
    """How test pictures are answered, greedily; see ``polylens predict``."""

    batch_size: int = 8
    max_new_tokens: int = 128
    num_workers: int = 2
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: str | None = None


@dataclass(frozen=True)
class ScoreSettings:
    """What does not count in a score; see ``polylens evaluate ocr``."""

    case: Literal["keep", "ignore"] = "keep"
    punctuation: Literal["keep", "ignore"] = "keep"


@dataclass(frozen=True)
class Comparison:
    """What is compared (``schemas/comparison.schema.json``). Every model is trained in every mode.

    Args:
        modes: name -> part of a run file, such as ``{lora: {enable: true}}``; ``null`` takes the model as it is.
        run: part of a run file that all entries share.
        processes: ranks of training and answering; above 1 they are started by torchrun.
    """

    output_dir: str
    data: ComparisonData
    models: dict[str, ComparedModel]
    modes: dict[str, dict[str, Any] | None]
    run: dict[str, Any] = field(default_factory=dict)
    predict: PredictSettings = field(default_factory=PredictSettings)
    score: ScoreSettings = field(default_factory=ScoreSettings)
    processes: int = 1

    @property
    def folder(self) -> Path:
        return Path(self.output_dir)


def read_comparison(path: str | Path, changes: Mapping[str, Any] | None = None) -> Comparison:
    """The comparison that a YAML file describes.

    Args:
        changes: values over those of the file.

    Raises:
        InputError: with all that is wrong.
    """
    given = merge(read_run_file(path), changes or {})
    given.pop("$schema", None)
    schemas.check("comparison", given, str(path))
    _check_parts(given, str(path))
    models = {
        name: build_options(ComparedModel, value, f"{path}: /models/{name}") for name, value in given["models"].items()
    }
    try:
        data = build_options(ComparisonData, given["data"], f"{path}: /data")
    except InputError as error:
        raise InputError(f"{path}: {error}" if str(error).startswith("/") else str(error)) from None
    return build_options(Comparison, {**given, "models": models, "data": data}, str(path))


def _check_parts(given: Mapping[str, Any], where: str) -> None:
    """Parts of run files must not say again, or otherwise, what the comparison says."""
    parts = {"/run": given.get("run", {})}
    parts |= {f"/modes/{name}": part or {} for name, part in given["modes"].items()}
    parts |= {f"/models/{name}/run": model.get("run", {}) for name, model in given["models"].items()}
    for pointer, part in parts.items():
        for name, place in _SAID_ELSEWHERE.items():
            if name in part:
                raise InputError(f"{where}: {pointer}/{name}: say this in {place}")
        data = part.get("data")
        for name in _DATA_SAID_ELSEWHERE:
            if isinstance(data, Mapping) and name in data:
                raise InputError(f"{where}: {pointer}/data/{name}: say this in /data")
