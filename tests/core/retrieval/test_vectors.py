from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from vector_folders import CARD, unit_vectors, write_vectors

from polylens.config.card import ModelCard
from polylens.errors import InputError
from polylens.retrieval.vectors import MemoryVectors, VectorStore, VectorWriter


def writer(folder, count=10, **changes):
    ids = changes.pop("ids", [f"page #{i}" for i in range(count)])
    options = {"dimensions": 3, "rows_per_shard": 4, "kind": "document", "card": CARD} | changes
    return VectorWriter(folder, ids=ids, **options)


@settings(max_examples=25, deadline=None)
@given(count=st.integers(0, 30), rows=st.integers(1, 12), cut=st.tuples(st.integers(0, 30), st.integers(0, 30)))
def test_what_is_written_is_read_back(tmp_path_factory, count, rows, cut):
    values = unit_vectors(count, 5)
    store = write_vectors(tmp_path_factory.mktemp("v"), values, rows_per_shard=rows)
    start, stop = sorted(min(place, count) for place in cut)
    assert np.array_equal(store.rows(start, stop).numpy(), values[start:stop])
    assert store.rows(start, stop).shape == (stop - start, 5)
    assert list(store.ids()) == [f"document {i}" for i in range(count)]
    assert store.ids_at(range(start, stop)) == {i: f"document {i}" for i in range(start, stop)}
    assert (len(store), store.dimensions, store.kind, store.normalized) == (count, 5, "document", True)
    assert store.card["family"] == "minicpmv-2.0"


def test_ids_of_any_kind_survive(tmp_path):
    ids = ["a b.pdf#0", "手册.pdf#1", 'quote"\\', "\udc80", "tab\t", "x" * 500]
    assert list(write_vectors(tmp_path, unit_vectors(6, 2), ids=ids, rows_per_shard=4).ids()) == ids


def test_ranks_share_shards_and_a_rerun_writes_only_what_is_missing(tmp_path):
    values = torch.from_numpy(unit_vectors(10, 3))
    second = writer(tmp_path)
    assert [writer(tmp_path).missing(rank, 2) for rank in (0, 1)] == [[0, 2], [1]]
    second.write(1, values[4:8].double())
    with pytest.raises(InputError, match=r"2 of 3 shards are missing: \[0, 2\]"):
        second.finish()
    assert not (tmp_path / "vectors.json").exists()
    before = (tmp_path / "vectors-00001.safetensors").stat().st_mtime_ns
    first = writer(tmp_path)
    assert first.missing() == [0, 2]
    for shard in first.missing():
        rows = first.rows(shard)
        first.write(shard, values[rows.start : rows.stop])
    first.finish()
    assert (tmp_path / "vectors-00001.safetensors").stat().st_mtime_ns == before
    assert torch.equal(VectorStore(tmp_path).rows(0, 10), values)
    assert writer(tmp_path).missing() == []
    assert not list(tmp_path.glob("*.tmp"))


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(path.read_bytes()[:-9])])
def test_a_lost_or_truncated_shard_is_refused_and_written_again(tmp_path, damage):
    write_vectors(tmp_path, unit_vectors(10, 3), ids=[f"page #{i}" for i in range(10)], rows_per_shard=4)
    damage(tmp_path / "vectors-00002.safetensors")
    with pytest.raises(InputError, match=r"vectors-00002\.safetensors is (missing|broken)"):
        VectorStore(tmp_path).rows(0, 10)
    assert writer(tmp_path).missing() == [2]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"card": ModelCard("minicpmv", "minicpmv-2.0", pooling="mean", dimensions=[8, 4])},
            "card.pooling is 'wmean' ",
        ),
        ({"card": ModelCard("tinyllava", "tinyllava", dimensions=[8, 4])}, "card.plugin is 'minicpmv' there"),
        ({"fingerprint": "b"}, "fingerprint is 'a' there and 'b' here"),
        ({"kind": "query"}, "kind is 'document' there and 'query' here"),
        ({"dimensions": 4}, "dimensions is 3 there and 4 here"),
        ({"rows_per_shard": 5}, "rows_per_shard is 4 there and 5 here"),
        ({"count": 11}, "count is 10 there and 11 here"),
        ({"ids": [*(f"page #{i}" for i in range(9)), "new"]}, "vector 9 is of 'page #9' there and of 'new' here"),
    ],
)
@pytest.mark.parametrize("finished", [True, False])
def test_a_folder_of_other_vectors_is_refused(tmp_path, changes, message, finished):
    ids = [f"page #{i}" for i in range(10)]
    write_vectors(tmp_path, unit_vectors(10, 3), ids=ids, rows_per_shard=4, fingerprint="a")
    if not finished:
        (tmp_path / "vectors.json").unlink()
    with pytest.raises(InputError, match=message):
        writer(tmp_path, **{"fingerprint": "a"} | changes)


def test_other_library_versions_and_an_unknown_fingerprint_do_not_matter(tmp_path):
    ids = [f"page #{i}" for i in range(10)]
    write_vectors(tmp_path, unit_vectors(10, 3), ids=ids, rows_per_shard=4, fingerprint="a")
    card = ModelCard("minicpmv", "minicpmv-2.0", dimensions=[8, 4], versions={"torch": "9.9"})
    assert writer(tmp_path, card=card).missing() == []


def test_the_same_vectors_are_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        write_vectors(tmp_path / name, unit_vectors(40, 3), rows_per_shard=4)
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert len(files) == 11
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_bad_vectors_are_refused_by_name(tmp_path):
    values = torch.ones(4, 3)
    values[2, 1] = torch.nan
    with pytest.raises(InputError, match="1 vectors are not finite, the first is of the document 'page #2'"):
        writer(tmp_path).write(0, values)
    with pytest.raises(ValueError, match=r"needs \[4, 3\], got \[3, 3\]"):
        writer(tmp_path).write(0, values[:3])
    with pytest.raises(InputError, match="the id 'a' occurs twice"):
        writer(tmp_path, ids=["a", "b", "a"])
    assert list(tmp_path.iterdir()) == []


def test_a_shard_of_another_folder_is_refused(tmp_path):
    write_vectors(tmp_path / "a", unit_vectors(10, 3), rows_per_shard=4)
    write_vectors(tmp_path / "b", unit_vectors(10, 3), rows_per_shard=4, fingerprint="b", ids=[*"abcdefghij"])
    (tmp_path / "b" / "vectors-00001.safetensors").replace(tmp_path / "a" / "vectors-00001.safetensors")
    with pytest.raises(InputError, match=r"00001.*does not belong to .*ids_sha256"):
        VectorStore(tmp_path / "a").rows(0, 10)


def test_a_shard_of_another_type_is_refused(tmp_path):
    write_vectors(tmp_path, unit_vectors(3, 3), rows_per_shard=4)
    path = tmp_path / "vectors-00000.safetensors"
    manifest = json.loads((tmp_path / "vectors.json").read_text())
    shard = {"ids": [f"document {i}" for i in range(3)], "manifest": manifest}
    save_file({"vectors": load_file(path)["vectors"].bfloat16()}, path, {"shard": json.dumps(shard)})
    with pytest.raises(InputError, match=r"holds torch\.bfloat16"):
        VectorStore(tmp_path).rows(0, 3)


def test_a_folder_without_a_manifest_or_with_a_wrong_one_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"vectors\.json is not there"):
        VectorStore(tmp_path)
    (tmp_path / "vectors.json").write_text("{")
    with pytest.raises(InputError, match="not JSON"):
        VectorStore(tmp_path)
    (tmp_path / "vectors.json").write_text('{"version": 2, "count": -1}')
    with pytest.raises(InputError, match=r"(?s)/count: -1.*/version: 1 was expected"):
        VectorStore(tmp_path)


def test_vectors_in_memory_need_one_id_a_row(tmp_path):
    with pytest.raises(InputError, match=r"2 ids need vectors of shape \[2, D\], not \[3, 4\]"):
        MemoryVectors(["a", "b"], torch.ones(3, 4))
    with pytest.raises(InputError, match="'a' occurs twice"):
        MemoryVectors(["a", "a"], torch.ones(2, 4))
