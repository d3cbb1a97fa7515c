"""polylens: train, merge and evaluate vision-language models through plugins."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from polylens.api import VLM as VLM
    from polylens.api import load as load
    from polylens.api import merge as merge
    from polylens.api import train as train
    from polylens.api import train_stages as train_stages
    from polylens.config.run import RunConfig as RunConfig
    from polylens.engine.gradient_cache import GradientCache as GradientCache
    from polylens.errors import InputError as InputError
    from polylens.hookspecs import hookimpl as hookimpl

# Heavy libraries load when a name is first used: `import polylens` must stay cheap.
_LAZY = {
    "VLM": "polylens.api",
    "load": "polylens.api",
    "merge": "polylens.api",
    "train": "polylens.api",
    "train_stages": "polylens.api",
    "RunConfig": "polylens.config.run",
    "GradientCache": "polylens.engine.gradient_cache",
    "InputError": "polylens.errors",
    "hookimpl": "polylens.hookspecs",
}

__all__ = sorted(_LAZY)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("polylens")
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'polylens' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *_LAZY, "__version__"]
