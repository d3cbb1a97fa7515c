"""Reads a training run from YAML files and a command line; the command line wins."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

from jsonargparse import ArgumentParser

from polylens.config import aliases, schemas
from polylens.config.arguments import Argument, boolean, split, typed
from polylens.config.deepspeed import check_deepspeed
from polylens.config.files import merge, nested, read_run_file, run_file_text
from polylens.config.run import ObjectiveConfig, RunConfig
from polylens.config.vocabulary import (
    REFUSED_TRAINING,
    Option,
    Vocabulary,
    core_options,
    full_vocabulary,
)
from polylens.errors import InputError, closest

REQUIRED = ("model_plugin", "model", "output_dir")
CONFIG, PRINT, DRY = "config", "print_config", "dry_run"
"""Options of the command line that are no values of the run."""

Content = tuple[str, Mapping[str, Any]]
"""What a run file holds, and where it stands, for messages."""


def parse_run(argv: Sequence[str]) -> RunConfig:
    """The run that a command line describes, ``--config`` files and all.

    ``training`` holds what the user set, and nothing else; ``options`` and ``objective.options`` likewise.

    Raises:
        InputError: an unknown option, a value of another type, a file that breaks the schema, a required option that
            is missing, an option of the original programs that cannot be kept.
    """
    files, given = read_arguments(argv)
    return resolve(contents_of(files), given)


def load_run(paths: Sequence[str | Path]) -> RunConfig:
    """The run that YAML files describe; later files win.

    Raises:
        InputError: as ``parse_run``.
    """
    return resolve(contents_of(paths), [])


def wants_print(argv: Sequence[str]) -> bool:
    """Whether the command line asks for the resolved run file instead of a run (``--print-config``)."""
    return _is_set(argv, PRINT)


def wants_dry_run(argv: Sequence[str]) -> bool:
    """Whether the command line asks what a run would do (``--dry-run``)."""
    return _is_set(argv, DRY)


def _is_set(argv: Sequence[str], name: str) -> bool:
    found = [argument for argument in split(argv) if argument.name == name]
    return any(not argument.values or boolean(argument.values[0]) for argument in found)


def named_parts(argv: Sequence[str]) -> tuple[str | None, str | None]:
    """The plugin and the objective that a command line or its run files name, if they do."""
    files, given = read_arguments(argv)
    named = _named([content for _, content in contents_of(files)], given)
    plugin, named_objective = named.get("model_plugin"), named.get("objective")
    objective = named_objective.get("name") if isinstance(named_objective, Mapping) else None
    return plugin if isinstance(plugin, str) else None, objective if isinstance(objective, str) else None


def run_text(run: RunConfig) -> str:
    """The run as a YAML file that gives the same run again."""
    return run_file_text(asdict(run))


def run_parser(options: Sequence[Option] | Vocabulary) -> ArgumentParser:
    """A jsonargparse parser whose keys are the paths of the options: it writes the schema."""
    parser = ArgumentParser(exit_on_error=False)
    for option in options:
        parser.add_argument(f"--{option.path}", type=option.hint, default=option.default, help=option.help or None)
    return parser


def run_schema(options: Sequence[Option] | Vocabulary) -> dict[str, Any]:
    """The JSON Schema of a run file with these options."""
    schema = json.loads(run_parser(options).get_completion_script("jsonschema"))
    location = schema["properties"].pop("$schema")
    _tidy(schema)
    schema["properties"]["$schema"] = location
    return schema


def _tidy(schema: Any) -> None:
    """Take out what jsonargparse repeats at every level."""
    for part in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
        _tidy(part)
    if isinstance(schema, dict) and isinstance(schema.get("properties"), dict):
        schema["properties"].pop("$schema", None)


def read_arguments(argv: Sequence[str]) -> tuple[list[Path], list[Argument]]:
    """The run files of a command line, and its options in their new spellings."""
    arguments = split(argv)
    files = [Path(path) for argument in arguments if argument.name == CONFIG for path in argument.values]
    if any(argument.name == CONFIG and not argument.values for argument in arguments):
        raise InputError("--config needs a value: a YAML file, or several")
    return files, aliases.translate([argument for argument in arguments if argument.name not in (CONFIG, PRINT, DRY)])


def contents_of(files: Sequence[str | Path]) -> list[Content]:
    """What run files hold."""
    return [(str(path), read_run_file(path)) for path in files]


def resolve(contents: Sequence[Content], given: Sequence[Argument]) -> RunConfig:
    """The run of the contents of files, later ones over earlier ones, and of options over them.

    Raises:
        InputError: as ``parse_run``.
    """
    vocabulary = _vocabulary([content for _, content in contents], given)
    run: dict[str, Any] = {}
    for where, content in contents:
        run = merge(run, _checked(where, content, vocabulary))
    for argument in given:
        run = merge(run, _value(argument, vocabulary))
    aliases.settle_tuning(run)
    return _build(run)


def _named(contents: Sequence[Mapping[str, Any]], given: Sequence[Argument]) -> dict[str, Any]:
    """Which plugin and which objective the run names: they decide what other options there are."""
    core = Vocabulary(core_options())
    found: dict[str, Any] = {}
    for content in contents:
        found = merge(found, content)
    for argument in given:
        option = core.find(argument.name)
        if option is not None and option.path in ("model_plugin", "objective.name"):
            found = merge(found, nested(option.path, typed(option, argument.values, argument.spelling)))
    return found


def _vocabulary(contents: Sequence[Mapping[str, Any]], given: Sequence[Argument]) -> Vocabulary:
    """The options of this run."""
    named = _named(contents, given)
    if not isinstance(named.get("model_plugin"), str):
        raise InputError("no --model-plugin is given; `polylens plugins list` shows the installed ones")
    objective = named.get("objective")
    name = objective.get("name") if isinstance(objective, Mapping) else None
    return full_vocabulary(named["model_plugin"], name if isinstance(name, str) else ObjectiveConfig.name)


def _checked(where: str, content: Mapping[str, Any], vocabulary: Vocabulary) -> dict[str, Any]:
    """The content of a run file with values of the right types; every error is reported at once."""
    _refuse_training(content, where)
    schemas.check_against(run_schema(vocabulary), content, where)
    kinds = {option.path: option for option in vocabulary}
    return _coerced({key: value for key, value in content.items() if key != "$schema"}, kinds)


def _coerced(content: Mapping[str, Any], options: Mapping[str, Option], prefix: str = "") -> dict[str, Any]:
    """Values that fit the schema, in the types of their options."""
    values = {}
    for key, value in content.items():
        path = prefix + key
        if path in options:
            values[key] = options[path].coerced(value)
        else:
            values[key] = _coerced(value, options, path + ".") if isinstance(value, Mapping) else value
    return values


def _refuse_training(content: Mapping[str, Any], where: str) -> None:
    training = content.get("training")
    for name in REFUSED_TRAINING.keys() & (training.keys() if isinstance(training, Mapping) else ()):
        raise InputError(f"{where}: /training/{name}: {REFUSED_TRAINING[name]}")


def _value(argument: Argument, vocabulary: Vocabulary) -> dict[str, Any]:
    """What one option of the command line sets."""
    if argument.name == aliases.TUNING:
        return aliases.tuning(argument)
    option = vocabulary.find(argument.name)
    if option is None:
        name = argument.name.removeprefix("training.")
        if name in REFUSED_TRAINING:
            raise InputError(f"{argument.spelling}: {REFUSED_TRAINING[name]}")
        names = [*vocabulary.names, *aliases.names(), CONFIG, PRINT, DRY]
        hint = closest(argument.name, names)
        raise InputError(f"unknown option {argument.spelling}{hint}; see polylens train --help")
    return nested(option.path, typed(option, argument.values, argument.spelling))


def _build(run: Mapping[str, Any]) -> RunConfig:
    missing = [f"--{name.replace('_', '-')}" for name in REQUIRED if not run.get(name)]
    if missing:
        raise InputError(f"missing: {', '.join(missing)}")
    hints = get_type_hints(RunConfig)
    values = {key: hints[key](**value) if is_dataclass(hints[key]) else value for key, value in run.items()}
    config = RunConfig(**values)
    if config.gradient_cache.micro_batch_size and config.gradient_cache.micro_batch_tokens:
        raise InputError("--micro-batch-size and --micro-batch-tokens exclude each other: give one of them")
    if config.training.get("deepspeed") is not None:
        check_deepspeed(config.training["deepspeed"])
    return config
