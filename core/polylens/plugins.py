"""Finds plugins by entry points without importing them, and loads the one that a run names.

pluggy and the hooks are imported where plugins are loaded: a list of them needs neither.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, EntryPoints, entry_points
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

from polylens.errors import InputError, closest

if TYPE_CHECKING:
    import pluggy

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
    return _listed(entry_points(group=GROUP))


def load(name: str) -> pluggy.HookRelay:
    """The hooks of one plugin, the core's defaults behind them.

    Raises:
        InputError: no plugin of that name is installed, two distributions claim it, it fails to import, or it has a
            hook that does not exist.
    """
    entries = entry_points(group=GROUP)
    return _manager([_module(CORE, entries), _module(name, entries)]).hook


def load_all() -> tuple[pluggy.HookRelay, dict[str, str]]:
    """The hooks of every plugin that loads, and for each of the others its name and what went wrong."""
    entries = entry_points(group=GROUP)
    modules, broken = [_module(CORE, entries)], {}
    for name in dict.fromkeys(info.name for info in _listed(entries)):
        try:
            module = _module(name, entries)
            _manager([module])  # one that does not fit must not take the others with it
            modules.append(module)
        except InputError as error:
            broken[name] = str(error)
    return _manager(modules).hook, broken


def _listed(entries: EntryPoints) -> list[PluginInfo]:
    infos = (_info(entry) for entry in entries if entry.name != CORE)
    return sorted(infos, key=lambda info: info.name)


def _info(entry: EntryPoint) -> PluginInfo:
    dist = entry.dist
    return PluginInfo(entry.name, entry.value, dist.name if dist else "?", dist.version if dist else "?")


def _module(name: str, entries: EntryPoints) -> Any:
    """Import the plugin that an entry point names; one line says what is wrong if that fails."""
    found = list(entries.select(name=name))
    if not found:
        hint = closest(name, [info.name for info in _listed(entries)])
        raise InputError(f"no plugin named {name!r}{hint}; {_names(entries)}")
    if len(found) > 1:
        owners = ", ".join(_info(entry).distribution for entry in found)
        raise InputError(f"plugin {name!r} is claimed by several packages ({owners}); uninstall all but one")
    try:
        return found[0].load()
    except Exception as error:
        what = f"plugin {name!r} ({found[0].value}) cannot be loaded"
        raise InputError(f"{what}: {type(error).__name__}: {error}; {_names(entries)}") from error


def _names(entries: EntryPoints) -> str:
    return f"installed plugins: {', '.join(info.name for info in _listed(entries)) or 'none'}"


def _manager(modules: list[Any]) -> pluggy.PluginManager:
    import pluggy

    from polylens import hookspecs

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
    from polylens import hookspecs

    if not isinstance(plugin, ModuleType):
        return plugin
    names = (name for name, value in vars(hookspecs).items() if hasattr(value, f"{hookspecs.PROJECT}_spec"))
    hidden = [name for name in names if isinstance(getattr(plugin, name, None), ModuleType)]
    if hidden:
        where = f"{plugin.__name__}.{hidden[0]}"
        raise InputError(f"plugin {plugin.__name__}: the module {where} hides the hook of that name; rename it")
    marked = {name: value for name, value in vars(plugin).items() if hasattr(value, f"{hookspecs.PROJECT}_impl")}
    return SimpleNamespace(__name__=plugin.__name__, **marked)
