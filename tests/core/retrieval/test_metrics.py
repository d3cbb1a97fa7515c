from __future__ import annotations

import json
import math

import ir_measures
import numpy as np
import pytest
import pytrec_eval
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polylens.errors import InputError
from polylens.retrieval.metrics import canonical, depth, evaluate, in_memory, save_per_query, save_result

DOCUMENTS = [f"d{i}" for i in range(8)]
RUNS = st.dictionaries(
    st.sampled_from(["q0", "q1", "q2"]),
    st.dictionaries(st.sampled_from(DOCUMENTS), st.integers(0, 3).map(float), min_size=1),
)
QRELS = st.dictionaries(
    st.sampled_from(["q0", "q1", "q2", "q3"]),
    st.dictionaries(st.sampled_from(DOCUMENTS), st.integers(0, 3), min_size=1),
    min_size=1,
)


def by_hand(grades, ranked, k):
    """nDCG@k with linear gains, RR@k and R@k of a ranking (Manning et al., chapter 8)."""
    gains = [grades.get(id, 0) for id in ranked]
    discounts = [1 / math.log2(rank + 2) for rank in range(100)]
    ideal = sum(g * d for g, d in zip(sorted(grades.values(), reverse=True)[:k], discounts, strict=False))
    ndcg = sum(g * d for g, d in zip(gains[:k], discounts, strict=False)) / ideal if ideal else 0.0
    first = next((rank for rank, gain in enumerate(gains[:k], start=1) if gain), None)
    relevant = sum(grade > 0 for grade in grades.values())
    return {
        f"nDCG@{k}": ndcg,
        f"RR@{k}": 1 / first if first else 0.0,
        f"R@{k}": sum(gain > 0 for gain in gains[:k]) / relevant if relevant else 0.0,
    }


@settings(max_examples=150, deadline=None)
@given(run=RUNS, qrels=QRELS, k=st.integers(1, 9))
def test_equals_the_definitions_with_ties(run, qrels, k):
    if run and not set(run) & set(qrels):
        return
    result = evaluate(qrels, run, [f"nDCG@{k}", f"RR@{k}", f"R@{k}"])
    for query, grades in qrels.items():
        found = run.get(query, {})
        ranked = sorted(found, key=lambda id: (-found[id], id))
        assert result["per_query"][query] == pytest.approx(by_hand(grades, ranked, k))
    for name, mean in result["mean"].items():
        assert mean == pytest.approx(np.mean([values[name] for values in result["per_query"].values()]))
    assert result["queries"] == len(qrels)
    assert result["queries_without_results"] == len(set(qrels) - set(run))
    assert result["ignored_queries"] == len(set(run) - set(qrels))


@settings(max_examples=60, deadline=None)
@given(run=RUNS, qrels=QRELS)
def test_equals_trec_eval(run, qrels):
    """trec_eval orders ties from Z to A; a run without ties leaves it no choice."""
    if not set(run) & set(qrels):
        return
    names = {"nDCG@3": "ndcg_cut_3", "R@3": "recall_3", "AP": "map", "RR": "recip_rank", "P@3": "P_3"}
    result = evaluate(qrels, run, list(names))["per_query"]
    theirs = pytrec_eval.RelevanceEvaluator(qrels, set(names.values())).evaluate(canonical(run))
    for query, values in theirs.items():
        assert result[query] == pytest.approx({name: values[theirs] for name, theirs in names.items()}, abs=1e-12)


def test_ties_are_the_same_for_every_measure():
    """ir-measures alone calls the same run 0.25 by RR and 0.5 by RR@10."""
    qrels, run = {"q": {"b": 1}}, {"q": dict.fromkeys(["a", "b", "c", "d"], 1.0)}
    plain = ir_measures.calc_aggregate([ir_measures.RR, ir_measures.RR @ 10], qrels, run)
    assert len(set(plain.values())) == 2
    for order in (["a", "b", "c", "d"], ["d", "c", "b", "a"]):
        result = evaluate(qrels, {"q": dict.fromkeys(order, 1.0)}, ["RR", "RR@10", "nDCG@10", "AP"])["mean"]
        assert result["RR"] == result["RR@10"] == result["AP"] == 0.5
        assert result["nDCG@10"] == pytest.approx(1 / math.log2(3))


def test_all_judged_queries_count():
    qrels = {"a": {"x": 1}, "b": {"x": 1}, "c": {"x": 0}, "d": {"x": 1}}
    result = evaluate(qrels, {"a": {"x": 1.0}, "c": {"x": 1.0}, "z": {"x": 1.0}}, ["RR@10"])
    assert result["mean"] == {"RR@10": 0.25}
    counts = [result[f"queries_without_{what}"] for what in ("results", "relevant")]
    assert (result["queries"], counts, result["ignored_queries"]) == (4, [2, 1], 1)
    assert evaluate(qrels, {}, ["nDCG@10"])["mean"] == {"nDCG@10": 0.0}


def test_other_names_of_measures_are_accepted_and_kept():
    qrels, run = {"q": {"b": 1, "c": 2}}, {"q": {"a": 3.0, "b": 2.0, "c": 1.0}}
    mean = evaluate(qrels, run, ["MRR@10", "RR@10", "Recall@2", "R@2", "MAP", "AP", "ndcg@2", "nDCG@2"])["mean"]
    for alias, name in [("MRR@10", "RR@10"), ("Recall@2", "R@2"), ("MAP", "AP"), ("ndcg@2", "nDCG@2")]:
        assert mean[alias] == mean[name] > 0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nDGC@10", r"unknown measure 'nDGC@10' \(did you mean 'nDCG'\?\)"),
        ("R", "measure 'R' needs a cutoff, such as R@10"),
        ("AP@0", "unknown measure 'AP@0'"),
        ("", "unknown measure ''"),
    ],
)
def test_unknown_measures_are_refused(name, message):
    with pytest.raises(InputError, match=message):
        evaluate({"q": {"a": 1}}, {}, [name])


def test_a_run_of_other_queries_is_refused():
    with pytest.raises(InputError, match="the run has 'b', the judgements have 'a'"):
        evaluate({"a": {"x": 1}}, {"b": {"x": 1.0}})
    with pytest.raises(InputError, match="no judgement"):
        evaluate({}, {})


def test_depth_covers_the_greatest_cutoff():
    assert depth(["nDCG@10", "R@1000", "AP"]) == 1000
    assert depth(["nDCG@10"]) == 100
    assert depth(["nDCG@10"], least=1) == 10


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float64, None])
def test_vectors_in_memory_take_the_same_path(kind):
    vectors = np.eye(4, dtype=np.float32) + 0.25 * np.eye(4, k=1, dtype=np.float32)
    values = vectors if kind is None else torch.from_numpy(vectors).to(kind).requires_grad_()
    ids = ["a", "b", "c", "d"]
    mean = in_memory(["p", "q"], values[:2], ids, values, {"p": {"a": 1}, "q": {"c": 1}, "r": {"a": 1}}, ["RR@10"])
    assert mean == {"RR@10": pytest.approx((1 + 1 / 3) / 3)}  # for q, a and c are equal


def test_results_are_written_whole(tmp_path):
    result = evaluate({"q 1": {"a": 1}, "q2": {"a": 1}}, {"q 1": {"b": 2.0, "a": 1.0}}, ["RR@10", "R@1"])
    save_result(tmp_path / "out" / "result.json", result, qrels="qrels.tsv", run="run.trec")
    assert json.loads((tmp_path / "out" / "result.json").read_text()) == {
        "version": 1,
        "qrels": "qrels.tsv",
        "run": "run.trec",
        "mean": {"RR@10": 0.25, "R@1": 0.0},
        "queries": 2,
        "queries_without_results": 1,
        "queries_without_relevant": 0,
        "ignored_queries": 0,
    }
    save_per_query(tmp_path / "queries.tsv", result["per_query"])
    assert (tmp_path / "queries.tsv").read_text() == "query-id\tRR@10\tR@1\nq 1\t0.5\t0.0\nq2\t0.0\t0.0\n"
