from __future__ import annotations

import pytest

from polylens.errors import InputError
from polylens.retrieval.beir import EvaluationSet, find_evaluation_set


def lay_out(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("")
    return folder


def test_beir(tmp_path):
    folder = lay_out(tmp_path, "corpus.jsonl", "queries.jsonl", "qrels/test.tsv", "qrels/dev.tsv")
    expected = EvaluationSet(folder / "corpus.jsonl", folder / "queries.jsonl", folder / "qrels" / "dev.tsv")
    assert find_evaluation_set(folder, "dev") == expected
    with pytest.raises(InputError, match=r"no split 'tset' \(did you mean 'test'\?\); it has dev, test"):
        find_evaluation_set(folder, "tset")


@pytest.mark.parametrize("qrels", ["arxivqa-eval-qrels.tsv", "qrels.tsv"])
def test_the_original(tmp_path, qrels):
    folder = lay_out(tmp_path, "arxivqa-eval-docs.jsonl", "arxivqa-eval-queries.jsonl", qrels)
    found = find_evaluation_set(folder)
    assert (found.corpus.name, found.queries.name) == ("arxivqa-eval-docs.jsonl", "arxivqa-eval-queries.jsonl")
    assert found.qrels.name == qrels


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "has neither corpus.jsonl"),
        (["a-eval-docs.jsonl", "b-eval-docs.jsonl"], "several evaluation sets.*a-eval-docs.jsonl, b-eval-docs.jsonl"),
        (["a-eval-docs.jsonl", "qrels.tsv"], "a-eval-queries.jsonl is missing"),
        (["a-eval-docs.jsonl", "a-eval-queries.jsonl"], "qrels.tsv is missing"),
        (["corpus.jsonl", "queries.jsonl"], "test.tsv is missing beside corpus.jsonl"),
    ],
)
def test_an_incomplete_folder_is_refused(tmp_path, names, message):
    with pytest.raises(InputError, match=message):
        find_evaluation_set(lay_out(tmp_path, *names))


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match="is not a folder"):
        find_evaluation_set(tmp_path / "none")
