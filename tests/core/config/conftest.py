"""A plugin of one small family and one objective, installed for these tests."""

from __future__ import annotations

import pytest
from support import install

SOURCE = '''
from dataclasses import dataclass, field
from typing import Literal

from polylens import hookimpl
from polylens.contracts import ModelFamily


@dataclass
class Compat:
    old_tokens: bool = False


@dataclass
class ToyOptions:
    """Options.

    Args:
        max_slices: at most so many.
        seed: has the name of an option of transformers.
    """

    max_slices: int | None = None
    mode: Literal["a", "b"] = "a"
    seed: int = 0
    compat: Compat = field(default_factory=Compat)


class Distance:
    def __init__(self, options):
        self.options = options


@dataclass
class DistanceOptions:
    margin: float = 0.5
    sizes: list[int] | None = None


class Untyped:
    options = None


@hookimpl
def families():
    return [ModelFamily("toy", "A toy", lambda config: True, {}, {}, {}, (), ToyOptions)]


@hookimpl
def objective(name, options):
    return {"distance": Distance(DistanceOptions()), "untyped": Untyped()}.get(name)
'''


@pytest.fixture(scope="session", autouse=True)
def toy(tmp_path_factory):
    """The plugin ``toy_config``."""
    folder = install(
        tmp_path_factory.mktemp("toy"),
        "toy-config",
        {"toy_config": "toy_config_plugin"},
        {"toy_config_plugin": SOURCE},
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield "toy_config"
