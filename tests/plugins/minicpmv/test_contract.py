"""The conformance kit on versions after 2.0, on which tests/core/testing runs it."""

import pytest

from polylens.testing import Subject, checks, gradients, models


@pytest.fixture(scope="module", params=["minicpmv-2.5", "minicpmv-2.6", "minicpmv-4.6"])
def subject(request):
    return Subject("minicpmv", request.param)


@pytest.mark.parametrize("check", checks(), ids=lambda check: check.__name__)
def test_the_contract_is_kept(check, subject):
    check(subject)


@pytest.fixture(scope="module")
def canvas():
    return Subject("minicpmv", "minicpmv-4.7")


@pytest.mark.parametrize("check", [*models.CHECKS, *gradients.CHECKS], ids=lambda check: check.__name__)
def test_so_it_is_with_positions_on_a_canvas(check, canvas):
    check(canvas)
