"""Writes ``schemas/run.schema.json`` and the tables of ``docs/command_line.md``.

    python -m polylens.config.generate

The schema has what the core knows; at run time the options of the plugin, of the objective and of transformers are
added, so that the file does not depend on what is installed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from polylens.config.aliases import ALIASES
from polylens.config.help import option_rows
from polylens.config.parser import run_schema
from polylens.config.stages import RULES, STAGES
from polylens.config.vocabulary import OPEN, core_options, objective_options

OBJECTIVES = ("contrastive", "lm", "multi_granularity")
START, END = "<!-- generated: {name} -->", "<!-- end: {name} -->"


def schema_text() -> str:
    """The content of ``schemas/run.schema.json``."""
    schema = run_schema(core_options())
    schema["title"] = "polylens run file"
    schema["properties"][STAGES] = {"description": "Runs one after the other; see docs/finetuning.md.", **RULES}
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def tables() -> dict[str, str]:
    """The generated parts of the command line's documentation, as Markdown tables."""
    core = [option for option in core_options() if option.path not in OPEN]
    objectives = {name: option_rows(objective_options(name) or []) for name in OBJECTIVES}
    head = ("option", "type", "default", "meaning")
    aliases = [(", ".join(f"`--{name}`" for name in a.names), a.origin, a.becomes, a.note) for a in ALIASES]
    return {
        "run": _markdown([head, *option_rows(core)]),
        **{name: _markdown([head, *rows]) for name, rows in objectives.items()},
        "aliases": _markdown([("original", "from", "becomes", "note"), *aliases]),
    }


def with_tables(text: str) -> str:
    """``text`` with every generated part replaced by what the code says now."""
    for name, table in tables().items():
        start, end = START.format(name=name), END.format(name=name)
        before, found, rest = text.partition(start)
        if not found or end not in rest:
            raise ValueError(f"the document lacks {start} ... {end}")
        text = f"{before}{start}\n{table}\n{end}{rest.partition(end)[2]}"
    return text


def write(root: Path) -> None:
    """Bring the schema and the document of a checkout up to date."""
    (root / "schemas" / "run.schema.json").write_text(schema_text(), encoding="utf-8")
    document = root / "docs" / "command_line.md"
    document.write_text(with_tables(document.read_text(encoding="utf-8")), encoding="utf-8")


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(cell.replace("|", "\\|").replace("``", "`") for cell in row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]])


if __name__ == "__main__":
    write(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
