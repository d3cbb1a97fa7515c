"""Generated files are up to date: ``python -m polylens.config.generate`` writes them."""

from __future__ import annotations

import re

import pytest
from jsonschema import Draft202012Validator
from support import ROOT

from polylens.config import generate
from polylens.config.files import read_run_file
from polylens.config.schemas import schema

DOCUMENT = ROOT / "docs" / "command_line.md"


def test_the_run_schema_is_what_the_dataclasses_say():
    assert (ROOT / "schemas" / "run.schema.json").read_text(encoding="utf-8") == generate.schema_text()


def test_the_tables_of_the_documentation_are_what_the_code_says():
    text = DOCUMENT.read_text(encoding="utf-8")
    assert generate.with_tables(text) == text


def test_a_document_without_a_table_is_named():
    with pytest.raises(ValueError, match="the document lacks <!-- generated: run -->"):
        generate.with_tables("")


@pytest.mark.parametrize("path", sorted((ROOT / "schemas").glob("*.schema.json")), ids=lambda path: path.name)
def test_every_schema_is_a_schema(path):
    Draft202012Validator.check_schema(schema(path.name.removesuffix(".schema.json")))


def test_the_run_file_of_the_documentation_fits_the_schema(tmp_path):
    (example,) = re.findall(r"```yaml\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "run.yaml").write_text(example)
    assert list(Draft202012Validator(schema("run")).iter_errors(read_run_file(tmp_path / "run.yaml"))) == []
