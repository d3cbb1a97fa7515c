from __future__ import annotations

import subprocess
import sys

import faiss
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from vector_folders import CARD, unit_vectors, whole_numbers, write_vectors

from polylens.config.card import ModelCard
from polylens.errors import InputError
from polylens.retrieval.search import SearchOptions, resolve_device, search, search_tiles
from polylens.retrieval.vectors import MemoryVectors


def in_memory(values, kind="document"):
    return MemoryVectors([f"{kind} {i}" for i in range(len(values))], torch.from_numpy(values))


def positions(hits):
    return [[int(id.split()[1]) for id in one.document_ids] for one in hits]


def brute_force(queries, corpus, k):
    """Positions in the order of (-score, position), scored in float64."""
    scores = queries.astype(np.float64) @ corpus.astype(np.float64).T
    return [sorted(range(len(corpus)), key=lambda position: (-row[position], position))[:k] for row in scores]


@settings(max_examples=60, deadline=None)
@given(
    queries=st.integers(0, 20),
    corpus=st.integers(0, 60),
    k=st.integers(1, 70),
    tiles=st.tuples(st.integers(1, 25), st.integers(1, 70)),
    size=st.integers(0, 4),
    seed=st.integers(0, 9),
)
def test_equals_brute_force_whatever_the_tiles(queries, corpus, k, tiles, size, seed):
    a = whole_numbers(queries, 6, seed=seed, size=size)
    b = whole_numbers(corpus, 6, seed=seed + 10, size=size)
    options = SearchOptions(k=k, query_tile=tiles[0], corpus_tile=tiles[1])
    hits = search(in_memory(a, "query"), in_memory(b), options)
    assert positions(hits) == brute_force(a, b, k)
    assert [one.query_id for one in hits] == [f"query {i}" for i in range(queries)]
    for one, expected in zip(hits, a @ b.T, strict=True):
        assert one.scores == sorted(expected.tolist(), reverse=True)[:k]


@settings(max_examples=15, deadline=None)
@given(rows=st.tuples(st.integers(1, 9), st.integers(1, 50)), tiles=st.tuples(st.integers(1, 9), st.integers(1, 50)))
def test_shards_do_not_matter(tmp_path_factory, rows, tiles):
    a, b = whole_numbers(8, 5), whole_numbers(45, 5, seed=1)
    folder = tmp_path_factory.mktemp("v")
    queries = write_vectors(folder / "q", a, kind="query", rows_per_shard=rows[0])
    corpus = write_vectors(folder / "d", b, rows_per_shard=rows[1])
    options = SearchOptions(k=12, query_tile=tiles[0], corpus_tile=tiles[1])
    assert search(queries, corpus, options) == search(in_memory(a, "query"), in_memory(b), SearchOptions(k=12))


def test_equals_faiss_on_real_numbers():
    a, b = unit_vectors(70, 96), unit_vectors(5000, 96, seed=1)
    index = faiss.IndexFlatIP(96)
    index.add(b)  # pyright: ignore[reportCallIssue]
    scores, found = index.search(a, 50)  # pyright: ignore[reportCallIssue]
    hits = search(in_memory(a, "query"), in_memory(b), SearchOptions(k=50, corpus_tile=512))
    assert np.allclose([one.scores for one in hits], scores, atol=1e-6)
    exact = a.astype(np.float64) @ b.astype(np.float64).T
    for row, (ours, theirs) in enumerate(zip(positions(hits), found.tolist(), strict=True)):
        for mine, other in zip(ours, theirs, strict=True):  # they may differ where rounding decides
            assert mine == other or abs(exact[row, mine] - exact[row, other]) < 1e-6


def test_ranks_share_the_tiles_and_find_the_same_bits():
    queries, corpus = in_memory(unit_vectors(100, 32), "query"), in_memory(unit_vectors(700, 32, seed=1))
    options = SearchOptions(k=9, query_tile=16, corpus_tile=128)
    whole = list(search_tiles(queries, corpus, options))
    for world_size in (2, 3, 11):
        parts = [list(search_tiles(queries, corpus, options, rank, world_size)) for rank in range(world_size)]
        assert [parts[i % world_size][i // world_size] for i in range(len(whole))] == whole


@pytest.fixture(scope="module")
def whole_number_store(tmp_path_factory):
    card = ModelCard("minicpmv", "minicpmv-2.0", normalize=False, dimensions=[8, 4, 2])
    values = whole_numbers(300, 8, size=2)
    return values, write_vectors(tmp_path_factory.mktemp("whole"), values, rows_per_shard=70, card=card)


@settings(max_examples=20, deadline=None)
@given(
    k=st.sampled_from([1, 10, 100, 300]),
    truncate_dim=st.sampled_from([None, 2, 4]),
    exclude=st.booleans(),
    tiles=st.tuples(st.sampled_from([40, 128, 300]), st.sampled_from([33, 64, 150, 300])),
    world_size=st.integers(1, 4),
)
def test_options_and_ranks_together(whole_number_store, k, truncate_dim, exclude, tiles, world_size):
    values, store = whole_number_store
    options = SearchOptions(k, truncate_dim, exclude, query_tile=tiles[0], corpus_tile=tiles[1])
    parts = [list(search_tiles(store, store, options, rank, world_size)) for rank in range(world_size)]
    tiles_in_order = [parts[i % world_size][i // world_size] for i in range(sum(map(len, parts)))]
    cut = values[:, :truncate_dim]
    expected = [
        [place for place in row if not (exclude and place == query)][:k]
        for query, row in enumerate(brute_force(cut, cut, 300))
    ]
    assert positions(hits for tile in tiles_in_order for hits in tile) == expected


@pytest.mark.parametrize("stop", [41, 47, 70])
def test_a_query_has_the_same_score_bits_in_any_company(stop):
    a, corpus = unit_vectors(100, 300), in_memory(unit_vectors(700, 300, seed=1))
    options = SearchOptions(k=9, query_tile=32)
    whole = search(in_memory(a, "query"), corpus, options)[40:stop]
    part = search(in_memory(a[40:stop], "query"), corpus, options)
    assert [(one.document_ids, one.scores) for one in part] == [(one.document_ids, one.scores) for one in whole]


def test_the_number_of_threads_does_not_change_a_bit():
    queries, corpus = in_memory(unit_vectors(60, 300), "query"), in_memory(unit_vectors(3000, 300, seed=1))
    before = torch.get_num_threads()
    found = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        found.append(search(queries, corpus))
    torch.set_num_threads(before)
    assert found[0] == found[1] == found[2]


def test_scores_are_float32_even_under_autocast_and_low_precision():
    a, b = unit_vectors(40, 64), unit_vectors(300, 64, seed=1)
    plain = search(in_memory(a, "query"), in_memory(b))
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert search(in_memory(a, "query"), in_memory(b)) == plain
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    assert np.allclose([one.scores for one in plain], -np.sort(-(a @ b.T), axis=1)[:, :100], atol=1e-6)


def test_bfloat16_vectors_are_scored_in_float32():
    a, b = whole_numbers(3, 6, size=100), whole_numbers(40, 6, seed=1, size=100)
    low = MemoryVectors([f"document {i}" for i in range(40)], torch.from_numpy(b).bfloat16())
    assert positions(search(in_memory(a, "query"), low)) == brute_force(a, b, 40)


def test_truncated_vectors_are_brought_back_to_length_one(tmp_path):
    a, b = unit_vectors(5, 8), unit_vectors(30, 8, seed=1)
    hits = search(
        write_vectors(tmp_path / "q", a, kind="query"), write_vectors(tmp_path / "d", b), SearchOptions(truncate_dim=4)
    )
    short = [values[:, :4] / np.linalg.norm(values[:, :4], axis=1, keepdims=True) for values in (a, b)]
    assert positions(hits) == brute_force(*short, 30)
    assert np.allclose(hits[0].scores, -np.sort(-(short[0] @ short[1].T)[0]), atol=1e-6)


def test_vectors_that_were_not_normalised_are_only_cut(tmp_path):
    card = ModelCard("minicpmv", "minicpmv-2.0", normalize=False, dimensions=[8, 4])
    a, b = whole_numbers(5, 8), whole_numbers(30, 8, seed=1)
    queries = write_vectors(tmp_path / "q", a, kind="query", card=card)
    corpus = write_vectors(tmp_path / "d", b, card=card)
    hits = search(queries, corpus, SearchOptions(truncate_dim=4, corpus_tile=8))
    assert positions(hits) == brute_force(a[:, :4], b[:, :4], 30)


def test_a_size_the_model_was_not_trained_for_is_warned_of(tmp_path, caplog):
    store = write_vectors(tmp_path, unit_vectors(5, 8))
    search(store, store, SearchOptions(truncate_dim=4))
    assert not caplog.records
    search(store, store, SearchOptions(truncate_dim=3))
    assert "not trained for 3 dimensions (its card says [8, 4])" in caplog.text


def test_the_document_of_the_same_name_can_be_left_out(tmp_path):
    values = whole_numbers(20, 5)
    store = write_vectors(tmp_path, values)
    options = SearchOptions(k=19, exclude_identical=True, query_tile=6, corpus_tile=4)
    expected = [[p for p in row if p != i][:19] for i, row in enumerate(brute_force(values, values, 20))]
    assert positions(search(store, store, options)) == expected
    alone = in_memory(values[:1])
    assert search(alone, alone, options)[0].document_ids == []


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("side", ["query", "document"])
def test_a_vector_that_is_not_finite_is_named(tmp_path, value, side):
    values = {"query": unit_vectors(6, 8), "document": unit_vectors(40, 8, seed=1)}
    stores = {kind: write_vectors(tmp_path / kind, values[kind], kind=kind) for kind in ("query", "document")}
    path = tmp_path / side / "vectors-00000.safetensors"
    broken = load_file(path)["vectors"]
    broken[3, 2] = value
    save_file({"vectors": broken}, path, _metadata(path))
    with pytest.raises(InputError, match=rf"vectors-00000\.safetensors: the vector of '{side} 3' is not finite"):
        search(stores["query"], stores["document"], SearchOptions(k=5, corpus_tile=16))


def _metadata(path):
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return file.metadata()


def test_scores_that_overflow_are_refused():
    great = in_memory(np.full((2, 4), 1e30, np.float32))
    with pytest.raises(InputError, match="do not fit into float32"):
        search(great, great)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"card": ModelCard("minicpmv", "minicpmv-2.0", pooling="mean", dimensions=[8, 4])},
            "card.pooling is 'wmean' ",
        ),
        ({"fingerprint": "b"}, "fingerprint is 'a' there and 'b' here"),
        ({"kind": "query"}, "exchange them"),
    ],
)
def test_queries_and_corpus_of_different_encoders_are_refused(tmp_path, changes, message):
    queries = write_vectors(
        tmp_path / "q", unit_vectors(3, 8), kind="document" if "kind" in changes else "query", fingerprint="a"
    )
    corpus = write_vectors(tmp_path / "d", unit_vectors(9, 8), **{"fingerprint": "a", "card": CARD} | changes)
    with pytest.raises(InputError, match=message):
        search(queries, corpus)


def test_other_dimensions_are_refused():
    with pytest.raises(InputError, match="queries have 8 dimensions, the corpus has 9"):
        search(in_memory(unit_vectors(3, 8)), in_memory(unit_vectors(3, 9)))
    with pytest.raises(InputError, match="truncate_dim is 9, the vectors have 8"):
        search(in_memory(unit_vectors(3, 8)), in_memory(unit_vectors(3, 8)), SearchOptions(truncate_dim=9))


@pytest.mark.parametrize("name", ["k", "truncate_dim", "query_tile", "corpus_tile"])
def test_options_must_be_positive(name):
    with pytest.raises(InputError, match=f"{name} is 0, it must be at least 1"):
        SearchOptions(**{name: 0})


def test_unknown_devices_are_refused():
    assert resolve_device("cpu").type == "cpu"
    for name, message in [("gpu9", "unknown device 'gpu9'"), ("meta", "not 'meta'")]:
        with pytest.raises(InputError, match=message):
            resolve_device(name)
    if not torch.cuda.is_available():
        assert resolve_device("auto").type == "cpu"
        with pytest.raises(InputError, match="no GPU"):
            resolve_device("cuda")


PEAKS = """
import sys
from polylens.retrieval.search import SearchOptions, search
from polylens.retrieval.vectors import VectorStore
for corpus in sys.argv[2:]:
    search(VectorStore(sys.argv[1]), VectorStore(corpus), SearchOptions(k=10))
    print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_does_not_grow_with_the_corpus(tmp_path):
    write_vectors(tmp_path / "q", unit_vectors(4, 256), kind="query")
    values = unit_vectors(8_192, 256)
    write_vectors(tmp_path / "small", values, rows_per_shard=8_192)
    write_vectors(tmp_path / "large", np.tile(values, (11, 1)), rows_per_shard=8_192)
    command = [sys.executable, "-c", PEAKS, tmp_path / "q", tmp_path / "small", tmp_path / "large"]
    small, large = map(int, subprocess.run(command, capture_output=True, check=True, text=True).stdout.split())
    assert large - small < 30_000  # KiB; the larger corpus has 81,920 KiB more
