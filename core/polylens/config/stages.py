"""Runs in several stages, such as pretraining and fine-tuning: each starts from the model that another one gave."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from polylens.config import schemas
from polylens.config.arguments import Argument
from polylens.config.files import run_file_text
from polylens.config.parser import Content, contents_of, read_arguments, resolve
from polylens.config.run import RunConfig
from polylens.errors import InputError, closest

STAGES = "stages"
"""Key of a run file: a list of stages, each with a name and with what differs from the rest of the file."""

RULES: dict[str, Any] = {
    "type": "array",
    "minItems": 1,
    "items": {
        "type": "object",
        "required": ["name"],
        "properties": {
            "name": {
                "type": "string",
                "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]*$",
                "description": "Of the stage, and of its folder in output_dir.",
            },
            "from": {
                "type": "string",
                "description": "Name of the stage whose model it starts from; by default the one before it.",
            },
        },
    },
}
"""JSON Schema of the list; what else a stage holds are options of a run."""

_NOT_OF_A_STAGE = {
    "output_dir": "every stage has a folder of its own, named after it, in the output_dir of the file",
    STAGES: "a stage has no stages",
}


@dataclass(frozen=True, slots=True)
class Stage:
    """One run of several.

    Attributes:
        source: the stage whose model it starts from; ``None`` if ``run.model`` was given.
    """

    name: str
    run: RunConfig
    source: str | None = None


def parse_stages(argv: Sequence[str]) -> list[Stage] | None:
    """The stages that the run files of a command line describe; ``None`` if they describe a single run.

    Options of the command line hold for every stage; ``--model`` is what the first one starts from.

    Raises:
        InputError: as ``parse_run``; a stage without a name, or one that starts from a stage that comes later.
    """
    files, given = read_arguments(argv)
    return _stages(contents_of(files), given)


def load_stages(paths: Sequence[str | Path]) -> list[Stage] | None:
    """The same from YAML files; later files win."""
    return _stages(contents_of(paths), [])


def stages_text(stages: Sequence[Stage]) -> str:
    """The stages as a YAML file that gives the same stages again."""
    first, folder = stages[0].run, str(Path(stages[0].run.output_dir).parent)
    whole = {"model_plugin": first.model_plugin, "model": first.model, "output_dir": folder}
    return run_file_text({**whole, STAGES: [_written(stage) for stage in stages]})


def _written(stage: Stage) -> dict[str, Any]:
    values = asdict(stage.run)
    del values["output_dir"]
    head = {"name": stage.name}
    if stage.source is not None:
        del values["model"]
        head["from"] = stage.source
    return {**head, **values}


def _stages(contents: Sequence[Content], given: Sequence[Argument]) -> list[Stage] | None:
    listed = [(where, content[STAGES]) for where, content in contents if STAGES in content]
    if not listed:
        return None
    where, found = listed[-1]
    schemas.check_against({"type": "object", "properties": {STAGES: RULES}}, {STAGES: found}, where)
    common = [(name, _without(content, STAGES)) for name, content in contents]
    stages: list[Stage] = []
    for number, own in enumerate(found):
        stages.append(_stage(f"{where}: /{STAGES}/{number}", own, common, given, stages))
    return stages


def _stage(
    where: str, own: Mapping[str, Any], common: Sequence[Content], given: Sequence[Argument], before: Sequence[Stage]
) -> Stage:
    for key, reason in _NOT_OF_A_STAGE.items():
        if key in own:
            raise InputError(f"{where}/{key}: {reason}")
    name, source = own["name"], _source(where, own, before)
    if any(stage.name == name for stage in before):
        raise InputError(f"{where}/name: there are two stages {name!r}: their folders would be one")
    run = resolve([*common, (where, _without(own, "name", "from"))], given)
    folder = Path(run.output_dir)
    model = own.get("model", run.model) if source is None else str(folder / source)
    base = run.base if source is None else None
    return Stage(name, replace(_resuming(run, where), model=model, base=base, output_dir=str(folder / name)), source)


def _source(where: str, own: Mapping[str, Any], before: Sequence[Stage]) -> str | None:
    names = [stage.name for stage in before]
    if "model" in own:
        if "from" in own:
            raise InputError(f"{where}: it names a model and a stage to start from: leave out one of them")
        return None
    source = own.get("from", names[-1] if names else None)
    if source is not None and source not in names:
        known = f"the stages before it are {', '.join(names)}" if names else "it is the first stage"
        raise InputError(f"{where}/from: no stage {source!r} comes before it{closest(source, names)}; {known}")
    return source


def _resuming(run: RunConfig, where: str) -> RunConfig:
    """Stages go on where they were by themselves."""
    training = dict(run.training)
    wish = str(training.pop("resume_from_checkpoint", True)).lower()
    if wish not in ("true", "false", "none"):
        raise InputError(
            f"{where}: resume_from_checkpoint names a folder; stages go on from their own checkpoints by themselves: "
            "leave it out"
        )
    return replace(run, training=training)


def _without(content: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in content.items() if key not in keys}
