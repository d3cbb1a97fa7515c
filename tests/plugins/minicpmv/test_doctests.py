import doctest
import importlib

import pytest


@pytest.mark.parametrize("module", ["slicing", "versions", "vision.patches"])
def test_examples_in_docstrings(module):
    result = doctest.testmod(importlib.import_module(f"polylens_minicpmv.{module}"))
    assert result.attempted > 0
    assert result.failed == 0
