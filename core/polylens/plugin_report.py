"""Plugins as text: what is installed, what its families are, how a check ended."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from polylens import plugins
from polylens.errors import InputError

if TYPE_CHECKING:
    from polylens.contracts import ModelFamily


def plugins_text() -> str:
    """A table of the installed plugins. Nothing of them is imported."""
    rows = [(info.name, f"{info.distribution} {info.version}", info.module) for info in plugins.installed()]
    return table([("NAME", "PACKAGE", "MODULE"), *rows]) if rows else "no plugins are installed"


def families_text() -> str:
    """Every plugin with its model families, their presets and options; a broken plugin shows what is wrong."""
    parts = [_plugin_text(info) for info in plugins.installed()]
    return "\n\n".join(parts) or "no plugins are installed"


def results_text(results: Sequence[Any]) -> str:
    """A table of check results (``name``, ``ok``, ``detail``) and the number of failures."""
    rows = [("ok" if result.ok else "FAILED", result.name, result.detail) for result in results]
    failed = sum(not result.ok for result in results)
    verdict = f"{failed} of {len(rows)} checks failed" if failed else f"all {len(rows)} checks passed"
    return f"{table(rows)}\n{verdict}"


def table(rows: Sequence[Sequence[str]]) -> str:
    """Columns of equal width, two spaces apart.

    >>> print(table([("NAME", "SIZE"), ("a", "10")]))
    NAME  SIZE
    a     10
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    cells = ([cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows)
    return "\n".join("  ".join(row).rstrip() for row in cells)


def _plugin_text(info: plugins.PluginInfo) -> str:
    head = f"{info.name} ({info.distribution} {info.version})"
    try:
        families = plugins.load(info.name).families()
    except InputError as error:
        return f"{head}\n  broken: {error}"
    return "\n".join([head, *(_family_text(family) for family in families or ())])


def _family_text(family: ModelFamily) -> str:
    lines = [
        f"{family.name}: {family.description}",
        f"  presets: {', '.join(family.presets)}",
        f"  components: {', '.join(family.components)}",
        f"  layouts: {', '.join(layout.name for layout in family.layouts)}",
        *(f"  --{name} {default}" for name, default in _options(family.options)),
    ]
    return "\n".join(f"  {line}" for line in lines)


def _options(kind: type) -> list[tuple[str, str]]:
    """Every option of a family with its default; nested ones by their path."""
    found = []
    for item in dataclasses.fields(kind):
        default = item.default if item.default_factory is dataclasses.MISSING else item.default_factory()
        if dataclasses.is_dataclass(default) and not isinstance(default, type):
            found += [(f"{item.name}.{name}", value) for name, value in _options(type(default))]
        else:
            found.append((item.name, "" if default is dataclasses.MISSING else f"(default: {default})"))
    return found
