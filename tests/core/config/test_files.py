"""Run files as they are read, before anything is known about their options."""

from __future__ import annotations

import pytest

from polylens.config.files import read_run_file, run_file_text
from polylens.errors import InputError

LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join(['*' + before] * 9)}]\n"
    for before, name in zip("abcdefghi", "bcdefghij", strict=True)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: a\nmodel: b\n", "the key 'model' stands in one mapping twice.* line 1"),
        ("data: {train: [a], train: [b]}\n", "the key 'train' stands in one mapping twice"),
        ("lora: {alpha: 1e999}\n", "1e999 is too large a number"),
        ("model: 2024-13-45\n", "month must be in"),
        ("lora: !!bool maybe\n", "not YAML"),
        ("lora: !!int abc\n", "not YAML"),
        ("model: !!timestamp x\n", "not YAML"),
        ("model: !!python/object/apply:os.system ['true']\n", "not YAML"),
        (LAUGHS, "aliases stand for more than 100000 values"),
        ("data: &d [*d]\n", "aliases stand for more than 100000 values"),
        ("[" * 5000 + "]" * 5000, "nested too deep"),
    ],
)
def test_what_yaml_can_say_and_a_run_cannot_is_refused(tmp_path, text, message):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        read_run_file(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_aliases_and_a_byte_order_mark_are_fine(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("\ufeffa: &a [1, 2e-5]\nb: *a\nc: {<<: {x: .inf}, y: 1}\n", encoding="utf-8")
    value = read_run_file(path)
    assert value == {"a": [1, 2e-5], "b": [1, 2e-5], "c": {"x": float("inf"), "y": 1}}
    path.write_text(run_file_text(value))
    assert read_run_file(path) == value
