"""The conformance kit on versions 2.5 and 2.6; tests/core/testing runs it on 2.0."""

import pytest

from polylens.testing import Subject, checks


@pytest.fixture(scope="module", params=["minicpmv-2.5", "minicpmv-2.6"])
def subject(request):
    return Subject("minicpmv", request.param)


@pytest.mark.parametrize("check", checks(), ids=lambda check: check.__name__)
def test_the_contract_is_kept(check, subject):
    check(subject)
