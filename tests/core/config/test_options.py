"""Options of plugins and objectives against their dataclass."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from polylens.config.options import assignments, build_options
from polylens.errors import InputError


@dataclass
class Compat:
    old: bool = False


@dataclass
class Options:
    temperature: float = 0.02
    count: int | None = None
    mode: Literal["a", "b"] = "a"
    sizes: list[int] | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    compat: Compat = field(default_factory=Compat)

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise ValueError(f"temperature is {self.temperature}; it must be above 0")


def test_values_take_the_types_of_their_fields():
    given = {"temperature": 1, "count": None, "sizes": [4, 2], "extra": {"a": 1}, "compat": {"old": True}}
    options = build_options(Options, given, "toy")
    assert options == Options(1.0, None, "a", [4, 2], {"a": 1}, Compat(True))
    assert type(options.temperature) is float


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"temprature": 1}, r"toy has no option 'temprature' \(did you mean 'temperature'\?\); it has: temperature, "),
        ({"temperature": "hot"}, "toy: option 'temperature' is 'hot', not float"),
        ({"temperature": True}, "toy: option 'temperature' is True, not float"),
        ({"temperature": 10**400}, "toy: option 'temperature' is 1000"),
        ({"count": 1.5}, "toy: option 'count' is 1.5, not int | None"),
        ({"mode": "c"}, r"toy: option 'mode' is 'c', not a \| b"),
        ({"extra": [1]}, r"toy: option 'extra' is \[1\], not dict"),
        ({"compat": {"odl": 1}}, "toy: option 'compat' has no option 'odl'"),
        ({"compat": 1}, "toy: option 'compat' is 1, not Compat"),
        ({"temperature": 0}, "toy: temperature is 0.0; it must be above 0"),
    ],
)
def test_a_wrong_option_is_named(given, message):
    with pytest.raises(InputError, match=message):
        build_options(Options, given, "toy")


@pytest.mark.parametrize("given", ["sizes=[1", "a={b: 1, b: 2}", "a=!!bool x"])
def test_an_assignment_that_is_not_yaml_is_refused(given):
    with pytest.raises(InputError, match=f"^{given.partition('=')[0]}: not YAML"):
        assignments([given])
