"""The conformance kit: what a plugin promises, as checks that its author runs.

``polylens plugins check NAME`` runs all of them. In a test suite of your own::

    import pytest
    from polylens.testing import Subject, checks

    @pytest.fixture(scope="module")
    def subject():
        return Subject("my_plugin")

    @pytest.mark.parametrize("check", checks(), ids=lambda check: check.__name__)
    def test_contract(check, subject):
        check(subject)  # raises Failure, an AssertionError that says what differs and by how much
"""

from __future__ import annotations

from polylens.testing.results import Check, Failure, Result, run_all
from polylens.testing.subject import Subject

__all__ = ["Check", "Failure", "Result", "Subject", "check", "checks"]


def checks() -> tuple[Check, ...]:
    """Every check, in the order in which one builds on the other: data, model, gradients, answers, training, files."""
    from polylens.testing import (
        alignment,
        checkpoints,
        chunks,
        components,
        families,
        generation,
        gradients,
        models,
        places,
        slicing,
        templates,
    )

    groups = (
        families,
        slicing,
        templates,
        models,
        places,
        gradients,
        alignment,
        chunks,
        generation,
        components,
        checkpoints,
    )
    return tuple(check for group in groups for check in group.CHECKS)


def check(plugin: str, family: str | None = None, source: str | None = None) -> list[Result]:
    """Check that a plugin keeps the contract.

    Args:
        plugin: name of an installed plugin.
        family: one of its families; by default all of them.
        source: model folder to check with, instead of the preset ``tiny``; its family is the given one, or the one
            that recognises it.

    Returns:
        One result per check and family; a check fails rather than raise.

    Raises:
        InputError: no such plugin, family or folder.
    """
    first = Subject(plugin, family)
    if source is not None:
        return run_all(checks(), first.of_folder(source) if family is None else Subject(plugin, family, source))
    names = [family] if family else [f.name for f in first.families]
    several = len(names) > 1
    return [
        result for name in names for result in run_all(checks(), Subject(plugin, name), f"{name}/" if several else "")
    ]
