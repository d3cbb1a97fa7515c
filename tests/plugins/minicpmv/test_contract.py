"""The conformance kit on versions after 2.0, on which tests/core/testing runs it.

In the suite 2.5 keeps all of it, and the others what they do differently; ``-m long`` runs the rest.
"""

from functools import cache

import pytest

from polylens.testing import Subject, checks, models, slicing, templates

IN_THE_SUITE = {
    "minicpmv-2.5": checks(),
    "minicpmv-2.6": (*templates.CHECKS, *models.CHECKS),
    "minicpmv-4.6": (*slicing.CHECKS, *templates.CHECKS, *models.CHECKS),
    "minicpmv-4.7": models.CHECKS,
}
CASES = [
    pytest.param(family, check, marks=() if check in short else pytest.mark.long)
    for family, short in IN_THE_SUITE.items()
    for check in checks()
]

subject = cache(lambda family: Subject("minicpmv", family))


@pytest.mark.parametrize(("family", "check"), CASES, ids=lambda value: getattr(value, "__name__", value))
def test_the_contract_is_kept(family, check):
    check(subject(family))
