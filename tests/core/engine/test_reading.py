"""Errors of libraries, told to the user where the user's file is to blame."""

from __future__ import annotations

import pytest
from safetensors import SafetensorError

from polylens.engine.reading import refusing
from polylens.errors import InputError


@pytest.mark.parametrize(
    "error", [KeyError("added_tokens"), SafetensorError("cut\nshort"), Exception("of tokenizers")]
)
def test_an_error_becomes_one_line(error):
    said = r"^config\.json: (KeyError|SafetensorError|Exception): [^\n]+$"
    with pytest.raises(InputError, match=said), refusing("config.json"):
        raise error


def test_what_the_user_was_told_stays_as_it_is():
    with pytest.raises(InputError, match=r"^said before$"), refusing("config.json"):
        raise InputError("said before")


class Defect(Exception):
    """No library raises it on a file."""


def test_a_defect_stays_a_defect():
    with pytest.raises(Defect), refusing("config.json"):
        raise Defect
    with pytest.raises(KeyError), refusing("a preset", trusted=True):
        raise KeyError
