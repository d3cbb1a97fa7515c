"""Splitting a command line, and typing its words."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polylens.config.arguments import boolean, split, typed
from polylens.config.vocabulary import Option
from polylens.errors import InputError

NAME = st.from_regex(r"[a-z][a-z0-9_.]{0,12}", fullmatch=True)
WORD = st.text(min_size=1, max_size=12).filter(lambda word: not word.startswith("--"))


@given(st.lists(st.tuples(NAME, st.lists(WORD, max_size=3))))
def test_options_come_back_with_their_values_in_order(options):
    argv = [token for name, values in options for token in (f"--{name}", *values)]
    assert [(argument.name, list(argument.values)) for argument in split(argv)] == options


@given(NAME, st.text(max_size=20))
def test_an_equals_sign_takes_any_value(name, value):
    (argument,) = split([f"--{name}={value}"])
    assert (argument.name, argument.values) == (name, (value,))


@pytest.mark.parametrize("spelling", ["--grad-cache-size", "--grad_cache_size", "--grad-cache_size"])
def test_dashes_are_underscores(spelling):
    assert split([spelling, "1"])[0].name == "grad_cache_size"


def test_a_negative_number_is_a_value():
    assert split(["--seed", "-1", "--rate", "-1e-5"])[1].values == ("-1e-5",)


def test_a_value_without_an_option_is_refused():
    with pytest.raises(InputError, match=r"unexpected argument 'run\.yaml'"):
        split(["run.yaml", "--seed", "1"])


@pytest.mark.parametrize(
    ("hint", "values", "expected"),
    [
        (int, ["3"], 3),
        (float, ["2e-5"], 2e-5),
        (float, ["1"], 1.0),
        (str, ["2024"], "2024"),
        (str, ["null"], "null"),
        (str, [""], ""),
        (str | None, ["null"], None),
        (str | None, ["1e-3"], "1e-3"),
        (str, ["Find: {this} # page"], "Find: {this} # page"),
        (bool, [], True),
        (bool, ["False"], False),
        (bool, ["0"], False),
        (bool | None, ["yes"], True),
        (list[str], ["a"], ["a"]),
        (list[str], ["a,b", "c: d"], ["a,b", "c: d"]),
        (list[str], ["[a, b]"], ["a", "b"]),
        (list[str], ["1", "null"], ["1", "null"]),
        (list[int] | None, ["64", "32"], [64, 32]),
        (list[int] | None, ["64"], [64]),
        (list[int] | None, ["null"], None),
        (list[float], ["1", "2e-1"], [1.0, 0.2]),
        (None | str | list[str], ["tensorboard"], "tensorboard"),
        (None | str | list[str], ["tensorboard", "wandb"], ["tensorboard", "wandb"]),
        (tuple[int, ...], ["1", "2"], (1, 2)),
        (dict[str, Any] | None, ["{use_reentrant: false}"], {"use_reentrant": False}),
        (Literal["mask", "keep"], ["keep"], "keep"),
        (Any, ["2e-5"], 2e-5),
        (Any, ["a", "b"], ["a", "b"]),
    ],
)
def test_words_become_values(hint, values, expected):
    value = typed(Option("x", hint), values, "--x")
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    ("hint", "values", "message"),
    [
        (int, ["1.5"], "--x is '1.5', not int"),
        (int, [], "--x needs a value: int"),
        (int, ["1", "2"], "--x takes one value, not 2: 1 2"),
        (float, ["fast"], "--x is 'fast', not float"),
        (bool, ["maybe"], "--x is 'maybe', not bool"),
        (list[str], [], "--x needs a value: list of str"),
        (list[int] | None, ["64", "x"], "--x is '64 x', not list of int or null"),
        (Literal["mask", "keep"], ["drop"], "--x is 'drop', not mask or keep"),
    ],
)
def test_a_wrong_value_is_named_with_its_type(hint, values, message):
    with pytest.raises(InputError) as error:
        typed(Option("x", hint), values, "--x")
    assert str(error.value) == message


@given(st.text(max_size=8))
def test_only_words_for_true_and_false_are_truth_values(text):
    known = {"true", "yes", "on", "1", "t", "y", "false", "no", "off", "0", "f", "n"}
    assert (boolean(text) is not None) == (text.strip().lower() in known)
