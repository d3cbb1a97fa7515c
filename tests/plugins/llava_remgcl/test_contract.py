"""The conformance kit: in the suite what a template and a model get wrong most easily, the rest with ``-m long``."""

from functools import cache

import pytest

from polylens import plugins
from polylens.testing import Subject, checks, families, slicing, templates
from polylens.testing.models import batch_of_one_equals_batch_of_many, weights_are_reached_by_calls

IN_THE_SUITE = {
    *families.CHECKS,
    *slicing.CHECKS,
    *templates.CHECKS,
    batch_of_one_equals_batch_of_many,
    weights_are_reached_by_calls,
}
CASES = [
    pytest.param(family.name, check, marks=() if check in IN_THE_SUITE else pytest.mark.long)
    for family in plugins.load("llava_remgcl").families()
    for check in checks()
]

subject = cache(lambda family: Subject("llava_remgcl", family))


@pytest.mark.parametrize(("family", "check"), CASES, ids=lambda value: getattr(value, "__name__", value))
def test_the_contract_is_kept(family, check):
    check(subject(family))
