"""The options of ``polylens train`` as text: for ``--help`` and for ``docs/command_line.md``."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable

from polylens.config.run import ObjectiveConfig
from polylens.config.vocabulary import (
    OPEN,
    Option,
    Vocabulary,
    core_options,
    full_vocabulary,
    objective_options,
    training_options,
    type_name,
)

USAGE = """\
usage: polylens train --model-plugin NAME --model PATH|HUB_ID|PRESET --train FILE... --documents DIR --output-dir OUT
                      [--config FILE.yaml]... [--print-config] [--dry-run] [OPTION [VALUE...]]...

Dashes and underscores are the same, and so are `--x y` and `--x=y`. Several values follow one another. An option is
known by its short name and by its path in a run file (--temperature, --objective.options.temperature). Run files are
read in order, and the command line wins. A file with `stages` holds several runs, each from the model of another.
--print-config shows the resolved options; --dry-run reads the data and says what would be trained, for how many steps.
It starts unchanged under torchrun, deepspeed and accelerate launch.
"""


def train_help(plugin: str | None = None, objective: str | None = None) -> str:
    """Usage and every option; those of a model family only if its plugin is named.

    Args:
        objective: by default the one that a run has by default.
    """
    objective = objective or ObjectiveConfig().name
    if plugin:
        vocabulary = full_vocabulary(plugin, objective)
    else:
        core = [option for option in core_options() if option.path not in OPEN]
        vocabulary = Vocabulary([*core, *(objective_options(objective) or []), *training_options()])
    return "\n".join([USAGE, *(_paragraph(option) for option in vocabulary)])


def option_rows(options: Iterable[Option]) -> list[tuple[str, str, str, str]]:
    """Name, type, default and meaning of each option."""
    return [(f"--{option.name}", type_name(option.hint), _shown(option.default), option.help) for option in options]


def _paragraph(option: Option) -> str:
    name, kind, default, text = option_rows([option])[0]
    head = f"  {name} {kind}" + (f" (default: {default})" if default else "")
    lines = 2 if option.path.startswith("training.") else None  # transformers documents its options at length
    body = textwrap.wrap(text.replace("`", ""), 110, max_lines=lines)
    return "\n".join([head, *(f"      {line}" for line in body)])


def _shown(default: object) -> str:
    value = getattr(default, "value", default)  # an enumeration shows its value
    return "" if value in (None, "", [], {}) else str(value)
