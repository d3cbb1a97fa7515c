from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polylens.errors import InputError
from polylens.retrieval.trec import Hits, read_qrels, read_run, write_run

IDS = st.text(st.characters(exclude_characters="\t\r\n", exclude_categories=["Cs"]), min_size=1, max_size=8)
SCORES = st.floats(allow_nan=False, allow_infinity=False, width=32)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "file"


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(IDS, st.dictionaries(IDS, SCORES, min_size=1, max_size=4), max_size=4))
def test_a_run_survives(tmp_path_factory, run):
    path = tmp_path_factory.mktemp("run") / "run"
    write_run(path, [Hits(query, list(found), list(found.values())) for query, found in run.items()])
    read = {query: {id: np.float32(score) for id, score in found.items()} for query, found in read_run(path).items()}
    assert read == run


def test_a_run_is_written_in_the_six_columns_of_trec(path):
    write_run(path, [Hits("q 1", ["手册.pdf#1", "b"], [0.5, float(np.float32(0.1))]), Hits("q2", [], [])])
    assert (
        path.read_bytes().decode() == "q 1\tQ0\t手册.pdf#1\t1\t0.5\tpolylens\nq 1\tQ0\tb\t2\t0.100000001\tpolylens\n"
    )


@pytest.mark.parametrize("id", ["", "a\tb", "a\nb", "a\rb", "\udc80"])
def test_ids_that_a_run_cannot_hold_are_refused(path, id):
    with pytest.raises(InputError, match="cannot be written to a run file"):
        write_run(path, [Hits("q", [id], [1.0])])
    assert not path.exists()


def test_runs_of_other_programs_are_read(path):
    path.write_bytes(b"q1 Q0 d1 1 2.5 tag\r\n\r\nq1  Q0 d2 2 -1e-3 tag\nq2\tQ0\td 3\t1\t7\ta tag\n")
    assert read_run(path) == {"q1": {"d1": 2.5, "d2": -0.001}, "q2": {"d 3": 7.0}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("q1 Q0 d1 1 2.5", "file:1: 5 columns in 'q1 Q0 d1 1 2.5', expected 6"),
        ("q1 Q0 d1 1 2 t\nq1 Q0 d 2 1 3 t", "file:2: 7 columns"),
        ("q1\tQ0\t\t1\t2\tt", "file:1: .* expected 6"),
        ("q1 x\tQ0\td1\t1\t2.5", "file:1: 5 columns in 'q1 x.*expected 6"),
        ("q1 Q0 d1 1 1_0 t", "file:1: score '1_0' is not a finite number"),
        ("q1 Q0 d1 1 \u0663 t", "file:1: score '\u0663' is not a finite number"),
        ("q1 Q0 d1 1 high t", "file:1: score 'high' is not a finite number"),
        ("q1 Q0 d1 1 nan t", "file:1: score 'nan' is not a finite number"),
        ("q1 Q0 d1 1 2 t\nq1 Q0 d1 2 1 t", "file:2: document 'd1' is named twice for query 'q1'"),
    ],
)
def test_a_malformed_run_is_refused_with_its_line(path, text, message):
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_run(path)


@pytest.mark.parametrize(
    "text",
    [
        "q1 0 d1 1\nq1 0 d2 0\nq2 0 d1 2\n",
        "q1\t0\td1\t1\r\nq1\t0\td2\t0\r\nq2\t0\td1\t2\r\n",
        "q1 d1 1\nq1 d2 0\nq2 d1 2",
        "query-id\tcorpus-id\tscore\r\nq1\td1\t1\r\nq1\td2\t0\r\nq2\td1\t2\r\n",
        "\ufeffquery-id\tcorpus-id\tscore\nq1\td1\t1\nq1\td2\t0\nq2\td1\t2.0\nq1\td1\t1\n",
        "corpus-id\tscore\tquery-id\nd1\t1\tq1\nd2\t0\tq1\n\nd1\t2\tq2\n",
    ],
)
def test_judgements_are_read_in_every_layout(path, text):
    path.write_bytes(text.encode())
    assert read_qrels(path) == {"q1": {"d1": 1, "d2": 0}, "q2": {"d1": 2}}


def test_judgements_may_have_spaces_in_ids(path):
    path.write_text("query-id\tcorpus-id\tscore\nq 1\ta b.pdf#0\t1\n")
    assert read_qrels(path) == {"q 1": {"a b.pdf#0": 1}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "file holds no judgement"),
        ("query-id\tcorpus-id\tscore\r\n", "file holds no judgement"),
        ("q1 d1", "file:1: 2 columns in 'q1 d1', expected 3 or 4"),
        ("q1 d1 1\nq1 0 d2 1", "file:2: 4 columns after lines of 3"),
        ("q1 d1 yes", "file:1: grade 'yes' is not a finite number"),
        ("q1 d1 0.5", "file:1: grade '0.5' is not a whole number"),
        ("q1 d1 1e300", "file:1: grade '1e300' is too large"),
        ("q1 d1 1\nquery-id corpus-id score", "file:2: grade 'score' is not a finite number"),
        ("\x0c\nq1 d1 1", "file:1: 1 columns"),
        ("q1 d1 inf", "file:1: grade 'inf' is not a finite number"),
        ("q1 d1 1\nq2 d1 1\nq1 d1 0", "file:3: query 'q1', document 'd1' has grade 0, and 1 further up"),
    ],
)
def test_malformed_judgements_are_refused_with_their_line(path, text, message):
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_qrels(path)


def test_a_file_that_cannot_be_read_is_named(path):
    with pytest.raises(InputError, match="file cannot be read: No such file"):
        read_run(path)
    path.write_bytes(b"q1 0 d\xff 1")
    with pytest.raises(InputError, match="file is not UTF-8 text"):
        read_qrels(path)
