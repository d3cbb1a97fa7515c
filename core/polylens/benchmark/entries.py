"""The entries of a comparison, each a model in a mode, as the commands that make it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from polylens.benchmark.comparison import ComparedModel, Comparison
from polylens.benchmark.steps import Step, fingerprint
from polylens.config.files import merge, run_file_text
from polylens.config.parser import load_run
from polylens.config.run import RunConfig
from polylens.engine.training import build_objective
from polylens.errors import InputError
from polylens.files import write_text

__all__ = ["Entry", "Files", "entries"]


@dataclass(frozen=True, slots=True)
class Files:
    """The conversations files of a comparison, and where their pictures lie."""

    train: Path
    test: Path
    image_root: Path | None

    def digest(self, path: Path) -> str:
        """Tells files apart by their content; pictures count by their names."""
        try:
            with path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror or error}") from error


@dataclass(frozen=True)
class Entry:
    """A model in a mode.

    Attributes:
        run: its training; ``None`` if the model is taken as it is.
        steps: by name, in order: ``train``, ``merge`` (of adapters), ``predict``, ``score``.
    """

    model_name: str
    mode: str
    model: ComparedModel
    run: RunConfig | None
    steps: dict[str, Step]

    @property
    def name(self) -> str:
        return f"{self.model_name}/{self.mode}"

    @property
    def answers(self) -> Path:
        return self.steps["predict"].output

    @property
    def scores(self) -> Path:
        return self.steps["score"].output

    @property
    def history(self) -> Path | None:
        """Where the training noted its metrics."""
        return self.steps["train"].output.parent / "metrics.jsonl" if self.run is not None else None


def entries(comparison: Comparison, files: Files, where: str) -> list[Entry]:
    """Every model in every mode, in the order of the file.

    What a step makes lies under a name that follows from all that it depends on: after a change of the file, what is
    still right is found again, and nothing is overwritten.

    Raises:
        InputError: a run that cannot be; ``where`` names the file of the comparison.
    """
    found = []
    for model_name, model in comparison.models.items():
        for mode, part in comparison.modes.items():
            try:
                found.append(_Builder(comparison, files, model_name, mode).entry(model, part))
            except InputError as error:
                raise InputError(f"{where}: {model_name}/{mode}: {error}") from error
    return found


@dataclass(frozen=True)
class _Builder:
    comparison: Comparison
    files: Files
    model_name: str
    mode: str

    def entry(self, model: ComparedModel, part: dict[str, Any] | None) -> Entry:
        steps: dict[str, Step] = {}
        run, source = None, model.model
        key = fingerprint(asdict(model), _versions())
        if part is not None:
            content = self._run(model, part)
            read = [self.files.digest(Path(path)) for path in (self.files.train, *content["data"].get("ocr", []))]
            key = fingerprint(content, *read, self.comparison.processes, _versions())
            run, steps["train"] = self._train(content, key)
            source = str(steps["train"].output.parent)
            if run.lora.enable:
                steps["merge"] = self._merge(source, key)
                source = str(steps["merge"].output)
        steps |= {step.name: step for step in self._measured(model, source, key, trained=part is not None)}
        return Entry(self.model_name, self.mode, model, run, steps)

    def _place(self, name: str, key: str) -> Path:
        return self.comparison.folder / self.model_name / self.mode / f"{name}-{key}"

    def _run(self, model: ComparedModel, part: dict[str, Any]) -> dict[str, Any]:
        """The run file, without its output folder."""
        root = self.files.image_root
        own = {
            "model_plugin": model.plugin,
            "model": model.model,
            "objective": {"name": "lm"},
            "data": {"train": [str(self.files.train)], **({"image_root": str(root)} if root else {})},
            "options": model.options,
        }
        return merge(merge(merge(own, self.comparison.run), model.run), part)

    def _train(self, content: dict[str, Any], key: str) -> tuple[RunConfig, Step]:
        place = self._place("train", key)
        run_file = place.with_name(place.name + ".yaml")
        training = {"report_to": "none", **content.get("training", {}), "resume_from_checkpoint": "true"}
        write_text(run_file, [run_file_text({**content, "training": training, "output_dir": str(place)})])
        try:
            run = load_run([run_file])
        except InputError as error:
            run_file.unlink()
            raise InputError(str(error).removeprefix(f"{run_file}: ")) from error
        if build_objective(run).records != "conversations":
            raise InputError(
                f"objective {run.objective.name!r} trains on pairs, and such a model does not answer; comparisons "
                "train on conversations, with lm or multi_granularity"
            )
        arguments = ("train", "--config", str(run_file))
        return run, Step("train", arguments, place / "polylens.json", place, self.comparison.processes)

    def _merge(self, adapter: str, key: str) -> Step:
        place = self._place("merged", key)
        return Step("merge", ("merge", adapter, "--output-dir", str(place)), place, place)

    def _measured(self, model: ComparedModel, source: str, key: str, *, trained: bool) -> Iterator[Step]:
        chosen, test = self.comparison.predict, self.files.test
        key = fingerprint(key, asdict(chosen), self.files.digest(test))
        place = self._place("answers", key)
        answers = place.with_name(place.name + ".jsonl")
        given = {"model": source, "input": test, "output": answers, **asdict(chosen)}
        if not trained:
            given["model_plugin"] = model.plugin
        if self.files.image_root is not None:
            given["image_root"] = self.files.image_root
        options = [] if trained else [word for item in _assignments(model.options) for word in ("--option", item)]
        arguments = ("predict", *_words(given), *options)
        yield Step("predict", arguments, answers, place, self.comparison.processes)
        scoring = asdict(self.comparison.score)
        place = self._place("scores", fingerprint(key, scoring))
        scores = place.with_name(place.name + ".json")
        yield Step(
            "score", ("evaluate", "ocr", *_words({"answers": answers, "output": scores, **scoring})), scores, place
        )


def _words(given: dict[str, Any]) -> list[str]:
    pairs = [(f"--{name.replace('_', '-')}", str(value)) for name, value in given.items() if value is not None]
    return [word for pair in pairs for word in pair]


def _assignments(options: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in options.items():
        if isinstance(value, dict):
            yield from _assignments(value, f"{prefix}{name}.")
        else:
            text = run_file_text({"value": value}).removeprefix("value:").strip()
            yield f"{prefix}{name}={text}"


def _versions() -> dict[str, str]:
    return {name: version(name) for name in ("polylens", "torch", "transformers")}
