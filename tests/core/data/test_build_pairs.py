import json
from collections import defaultdict

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from polylens.config import schemas
from polylens.data.build_pairs import BuildSettings, build_pairs
from polylens.data.documents import group_of
from polylens.data.pairs import read_pairs
from polylens.data.store import Document, DocumentStore, DocumentWriter
from polylens.errors import InputError

FILES, PAGES = 12, 4


@pytest.fixture(scope="module")
def documents(tmp_path_factory):
    folder = tmp_path_factory.mktemp("documents")
    with DocumentWriter(folder) as writer:
        for file in range(FILES):
            for page in range(PAGES):
                writer.write(Document(f"{file}.pdf#{page + 1}", None, f"{file} {page}"))
    return DocumentStore([folder])


def write(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def read(folder, name="train"):
    path = folder / f"{name}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


pages = st.builds("{}.pdf#{}".format, st.integers(0, FILES - 1), st.integers(1, PAGES))
raw_pairs = st.fixed_dictionaries(
    {
        "query": st.sampled_from([f"question {n}" for n in range(30)]),
        "positives": st.lists(pages, min_size=1, max_size=2, unique=True),
        "source": st.sampled_from(["red", "blue"]),
    },
    optional={"negatives": st.lists(pages, max_size=2, unique=True)},
)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(raw_pairs, min_size=1, max_size=60), st.integers(1, 5), st.integers(0, 9), st.randoms())
def test_partition_leakage_batches_and_determinism(tmp_path_factory, documents, lines, size, seed, shuffler):
    lines = [
        {**line, "id": str(n), "negatives": [id for id in line.get("negatives", []) if id not in line["positives"]]}
        for n, line in enumerate(lines)
    ]
    folder = tmp_path_factory.mktemp("pairs")
    config = BuildSettings(size, 0.2, 0.0, seed)
    try:
        report = build_pairs([write(folder / "raw.jsonl", lines)], documents, folder / "one", config)
    except InputError as error:
        if "independent groups" not in str(error):
            raise
        return
    splits = {name: read(folder / "one", name) for name in ("train", "validation")}

    # Every pair is in exactly one split, and none was lost or changed.
    assert sorted(line["id"] for split in splits.values() for line in split) == sorted(line["id"] for line in lines)
    original = {line["id"]: line for line in lines}
    for line in (line for split in splits.values() for line in split):
        assert {key: line[key] for key in ("query", "positives", "source")} == {
            key: original[line["id"]][key] for key in ("query", "positives", "source")
        }
        schemas.check("pairs", line, "line")

    # No file in two splits, negatives included.
    files = {
        name: {group_of(id) for line in split for id in line["positives"] + line["negatives"]}
        for name, split in splits.items()
    }
    assert not files["train"] & files["validation"]

    # Batches: one source, queries and documents once, relevant documents of a query in no other pair.
    relevant = defaultdict(set)
    for line in splits["train"]:
        relevant[line["query"]].update(line["positives"])
    batches = defaultdict(list)
    for line in splits["train"]:
        batches[line["batch"]].append(line)
    assert [line["batch"] for line in splits["train"]] == sorted(line["batch"] for line in splits["train"])
    lengths = [len(batch) for batch in batches.values()]
    assert lengths.count(size) == report.full_batches
    assert all(length == size for length in lengths[: report.full_batches])
    for batch in batches.values():
        assert len({line["source"] for line in batch}) == 1
        assert len({line["query"] for line in batch}) == len(batch)
        named = [id for line in batch for id in line["positives"] + line["negatives"]]
        assert len(set(named)) == len(named)
        for line in batch:
            others = {id for other in batch if other is not line for id in other["positives"]}
            assert not relevant[line["query"]] & others

    # The order of the lines changes nothing.
    shuffled = write(folder / "raw.jsonl", shuffler.sample(lines, len(lines)))
    build_pairs([shuffled], documents, folder / "two", config)
    assert (folder / "one" / "train.jsonl").read_bytes() == (folder / "two" / "train.jsonl").read_bytes()
    schemas.check("pairs_split", json.loads((folder / "one" / "split.json").read_text()), "split.json")


def simple(count=48):
    return [{"query": f"q{n}", "positives": [f"{n % FILES}.pdf#{1 + n // FILES % PAGES}"]} for n in range(count)]


def test_the_files_are_read_again_and_relevance_fits(tmp_path, documents):
    build_pairs([write(tmp_path / "raw.jsonl", simple())], documents, tmp_path / "out", BuildSettings(4))
    train = read_pairs([tmp_path / "out/train.jsonl"], documents=documents).pairs
    assert train[0].batch == 0
    assert train[0].source == "raw"
    test = read_pairs([tmp_path / "out/test.jsonl"], documents=documents).pairs
    rows = [line.split("\t") for line in (tmp_path / "out/test.qrels.tsv").read_text().splitlines()]
    assert rows == [["query-id", "corpus-id", "score"], *([pair.id, pair.positives[0], "1"] for pair in test)]


def test_a_query_that_names_two_files_joins_them(tmp_path, documents):
    lines = [
        *simple(),
        {"query": "both", "positives": ["0.pdf#1", "1.pdf#1"]},
        {"query": "x", "positives": ["1.pdf#2"]},
    ]
    for seed in range(6):
        build_pairs([write(tmp_path / "raw.jsonl", lines)], documents, tmp_path / "out", BuildSettings(4, seed=seed))
        owners = {
            split
            for split in ("train", "validation", "test")
            for line in read(tmp_path / "out", split)
            if {group_of(id) for id in line["positives"]} & {"0.pdf", "1.pdf"}
        }
        assert len(owners) == 1


def test_groups_by_a_field(tmp_path, documents):
    lines = [{**line, "metadata": {"maker": f"m{n % 5}"}} for n, line in enumerate(simple(FILES))]
    raw = write(tmp_path / "raw.jsonl", lines)
    build_pairs([raw], documents, tmp_path / "out", BuildSettings(4, group_by="maker"))
    makers = [
        {line["metadata"]["maker"] for line in read(tmp_path / "out", split)}
        for split in ("train", "validation", "test")
    ]
    assert sum(map(len, makers)) == 5
    with pytest.raises(InputError, match=r"raw\.jsonl:1: /metadata: has no 'brand' to group by"):
        build_pairs([raw], documents, tmp_path / "out", BuildSettings(4, group_by="brand"))


def test_files_of_an_earlier_run_do_not_stay(tmp_path, documents):
    raw = write(tmp_path / "raw.jsonl", simple())
    build_pairs([raw], documents, tmp_path / "out", BuildSettings(4))
    build_pairs([raw], documents, tmp_path / "out", BuildSettings(4, test=0))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "split.json",
        "train.jsonl",
        "validation.jsonl",
        "validation.qrels.tsv",
    ]


def test_bad_records_and_settings(tmp_path, documents):
    raw = write(
        tmp_path / "raw.jsonl",
        [*simple(), {"query": "x", "positives": ["gone"]}, {"query": "x", "pos": {"text": "y"}}],
    )
    with pytest.raises(InputError, match=r"raw\.jsonl:49: .*'gone'"):
        build_pairs([raw], documents, tmp_path / "out")
    report = build_pairs([raw], documents, tmp_path / "out", on_bad_record="quarantine")
    assert report.quarantined == 2
    assert len((tmp_path / "out/quarantine.jsonl").read_text().splitlines()) == 2
    for bad in ({"batch_size": 0}, {"validation": 0.6, "test": 0.4}, {"test": -0.1}):
        with pytest.raises(InputError):
            BuildSettings(**bad)
    with pytest.raises(InputError, match="tab or line break"):
        build_pairs(
            [write(raw, [{**line, "id": f"a\t{n}"} for n, line in enumerate(simple())])], documents, tmp_path / "out"
        )
