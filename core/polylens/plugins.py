"""Finds plugins by entry points without importing them, and loads the one that a run names."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType, SimpleNamespace
from typing import Any

import pluggy

from polylens import hookspecs
from polylens.errors import InputError, closest

GROUP = "polylens.plugins"
CORE = "core"


@dataclass(frozen=True, slots=True)
class PluginInfo:
    """An installed plugin, as its distribution describes it; nothing of it has been imported."""

    name: str
    module: str
    distribution: str
    version: str


def installed() -> list[PluginInfo]:
    """Every installed plugin, by name. The core's own defaults are not listed."""
    infos = (_info(entry) for entry in entry_points(group=GROUP) if entry.name != CORE)
    return sorted(infos, key=lambda info: info.name)


def load(name: str) -> pluggy.HookRelay:
    """The hooks of one plugin, the core's defaults behind them.

    Raises:
        InputError: no plugin of that name is installed, two distributions claim it, or it fails to import.
    """
    return _manager([_module(CORE), _module(name)]).hook


def load_all() -> tuple[pluggy.HookRelay, dict[str, str]]:
    """The hooks of every plugin that imports, and for each of the others its name and what went wrong."""
    modules, broken = [_module(CORE)], {}
    for info in installed():
        try:
            modules.append(_module(info.name))
        except InputError as error:
            broken[info.name] = str(error)
    return _manager(modules).hook, broken


def _info(entry: EntryPoint) -> PluginInfo:
    dist = entry.dist
    return PluginInfo(entry.name, entry.value, dist.name if dist else "?", dist.version if dist else "?")


def _module(name: str) -> Any:
    """Import the plugin that an entry point names; one line says what is wrong if that fails."""
    found = list(entry_points(group=GROUP, name=name))
    names = [info.name for info in installed()]
    listing = f"installed plugins: {', '.join(names) or 'none'}"
    if not found:
        raise InputError(f"no plugin named {name!r}{closest(name, names)}; {listing}")
    if len(found) > 1:
        owners = ", ".join(_info(entry).distribution for entry in found)
        raise InputError(f"plugin {name!r} is claimed by several packages ({owners}); uninstall all but one")
    try:
        return found[0].load()
    except Exception as error:
        kind = type(error).__name__
        raise InputError(f"plugin {name!r} ({found[0].value}) cannot be loaded: {kind}: {error}; {listing}") from error


def _manager(modules: list[Any]) -> pluggy.PluginManager:
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    try:
        for module in modules:  # the last one registered answers first
            manager.register(_hooks(module), name=getattr(module, "__name__", None))
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        name = getattr(error.plugin, "__name__", error.plugin)
        raise InputError(f"plugin {name} does not fit polylens: {' '.join(str(error).split())}") from error
    return manager


@cache
def _hooks(plugin: Any) -> Any:
    """The hooks of a plugin as they are when it is first seen.

    Importing a submodule ``tokenizer`` sets the attribute ``tokenizer`` of its package, and so would hide the hook of
    that name from then on.

    Raises:
        InputError: that has happened before polylens saw the plugin.
    """
    if not isinstance(plugin, ModuleType):
        return plugin
    names = (name for name, value in vars(hookspecs).items() if hasattr(value, f"{hookspecs.PROJECT}_spec"))
    hidden = [name for name in names if isinstance(getattr(plugin, name, None), ModuleType)]
    if hidden:
        where = f"{plugin.__name__}.{hidden[0]}"
        raise InputError(f"plugin {plugin.__name__}: the module {where} hides the hook of that name; rename it")
    marked = {name: value for name, value in vars(plugin).items() if hasattr(value, f"{hookspecs.PROJECT}_impl")}
    return SimpleNamespace(__name__=plugin.__name__, **marked)
