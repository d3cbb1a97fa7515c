"""Makes training, validation and test files out of raw pairs."""

from __future__ import annotations

import json
import random
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from polylens.data.documents import DocumentSource, group_of
from polylens.data.pairs import Pair, PairReader, jsonl_files
from polylens.data.records import BadRecord, Line, Quarantine, parse_line
from polylens.data.splits import Groups, pack_batches, seeded_order, split_groups
from polylens.errors import InputError
from polylens.files import write_text

__all__ = ["BuildReport", "BuildSettings", "SplitReport", "build_pairs"]

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class BuildSettings:
    """How pairs are divided and put into batches; kept in ``split.json``.

    Args:
        batch_size: of the whole training step, over all ranks.
        validation: part of the pairs, 0 to 1.
        test: part of the pairs, 0 to 1.
        seed: of the division and of the order of batches.
        group_by: what stays in one split: ``document``, all pages of a file (what stands before ``#`` in an id);
            ``source``; or the name of a value in the pairs' ``metadata``.
    """

    batch_size: int = 128
    validation: float = 0.1
    test: float = 0.1
    seed: int = 42
    group_by: str = "document"

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise InputError(f"the batch size must be at least 1, not {self.batch_size}")
        if min(self.validation, self.test) < 0 or self.validation + self.test >= 1:
            raise InputError(f"validation and test must leave some pairs to train on: {self.validation}, {self.test}")


@dataclass
class SplitReport:
    """What is in a split."""

    pairs: int
    documents: int
    groups: int


@dataclass
class BuildReport:
    """What was made, as ``split.json`` holds it; see ``schemas/pairs_split.schema.json``.

    Attributes:
        full_batches: batches of ``batch_size`` pairs, which stand first in ``train.jsonl``.
        short_batches: smaller ones, at its end.
        dropped_negatives: hard negatives left out because they are documents of another split.
        quarantined: bad records set aside.
    """

    settings: BuildSettings
    splits: dict[str, SplitReport] = field(default_factory=dict)
    full_batches: int = 0
    short_batches: int = 0
    dropped_negatives: int = 0
    quarantined: int = 0


@dataclass(slots=True)
class _Item:
    """A pair and its line, as it is written again."""

    pair: Pair
    value: dict[str, Any]


def build_pairs(
    records: Sequence[str | Path],
    documents: DocumentSource,
    output: str | Path,
    settings: BuildSettings | None = None,
    *,
    on_bad_record: Literal["error", "quarantine"] = "error",
) -> BuildReport:
    """Write ``train.jsonl``, ``validation.jsonl``, ``test.jsonl``, the relevance (``*.qrels.tsv``) of the latter two,
    and ``split.json``.

    No document, nor a page of the same file, is in two splits; files that one query names stay together. A training
    batch has one source, no query twice, and no two pairs of which one's documents are relevant to, or negatives of,
    the other's query. Every pair is kept: batches that cannot be filled stand at the end of the file.

    Args:
        records: pairs files, or folders of them.
        documents: all that the pairs name.
        on_bad_record: with ``quarantine``, bad records go to ``quarantine.jsonl`` in ``output``.

    Raises:
        InputError: a bad record, no pairs, or too few documents for the splits.
    """
    settings, output = settings or BuildSettings(), Path(output)
    output.mkdir(parents=True, exist_ok=True)
    (output / "quarantine.jsonl").unlink(missing_ok=True)
    with Quarantine(on_bad_record, output / "quarantine.jsonl") as bad:
        items = _read(records, documents, bad)
    if not items:
        raise InputError(f"no pairs are left in {', '.join(map(str, records))}")
    report = BuildReport(settings, quarantined=bad.count)
    splits = _split(items, settings, report)
    batches = _batches(splits["train"], settings)
    report.full_batches = sum(len(batch) == settings.batch_size for batch in batches)
    report.short_batches = len(batches) - report.full_batches
    _write_all(output, splits, batches, report)
    return report


def _read(records: Sequence[str | Path], documents: DocumentSource, bad: Quarantine) -> list[_Item]:
    reader = PairReader(documents, "", bad)
    items = []
    for path in jsonl_files(records):
        for line, pair in reader.lines(path):
            value = parse_line(line)
            if "pos" in value:
                bad.add(line, _inline(line))
            else:
                items.append(_Item(pair, {**value, "id": pair.id, "source": pair.source}))
    return items


def _inline(line: Line) -> InputError:
    return BadRecord(
        line.where, ["/pos: the documents stand in the line; 'polylens data convert' moves them to a store"]
    )


def _split(items: Sequence[_Item], settings: BuildSettings, report: BuildReport) -> dict[str, list[_Item]]:
    groups = Groups()
    for item in items:
        groups.join(_names(item, settings.group_by))
    owners = [groups[_names(item, settings.group_by)[0]] for item in items]
    sizes: dict[str, int] = {}
    for owner in owners:
        sizes[owner] = sizes.get(owner, 0) + 1
    train = 1 - settings.validation - settings.test
    fractions = {"train": train, "validation": settings.validation, "test": settings.test}
    chosen = split_groups(sizes, fractions, settings.seed)
    splits: dict[str, list[_Item]] = {split: [] for split in SPLITS}
    for item, owner in zip(items, owners, strict=True):
        splits[chosen[owner]].append(item)
    for split, members in splits.items():
        report.dropped_negatives += sum(_drop_foreign(item, split, groups, chosen, settings) for item in members)
        documents = {id for item in members for id in item.pair.positives}
        report.splits[split] = SplitReport(len(members), len(documents), sum(c == split for c in chosen.values()))
    return splits


def _names(item: _Item, group_by: str) -> list[str]:
    """What ties a pair to others: its documents' files, or its documents and the value of a field."""
    if group_by == "document":
        return [f"file {group_of(id)}" for id in item.pair.positives]
    value = item.pair.source if group_by == "source" else item.value.get("metadata", {}).get(group_by)
    if value is None:
        raise InputError(f"{item.pair.where}: /metadata: has no {group_by!r} to group by")
    return [f"field {json.dumps(value, sort_keys=True)}", *(f"file {id}" for id in item.pair.positives)]


def _drop_foreign(item: _Item, split: str, groups: Groups, chosen: dict[str, str], settings: BuildSettings) -> int:
    """Leave out negatives that belong to another split; a file that answers no query may serve for training."""

    def owner(id: str) -> str:
        group = groups.get(f"file {group_of(id) if settings.group_by == 'document' else id}")
        return "train" if group is None else chosen[group]

    negatives = item.pair.negatives
    kept = [id for id in negatives if owner(id) == split]
    if len(kept) < len(negatives):
        item.value = {**item.value, "negatives": kept}
    return len(negatives) - len(kept)


def _batches(items: Sequence[_Item], settings: BuildSettings) -> list[list[_Item]]:
    """Full batches in the order that the seed gives, then those that are not full."""
    ordered = sorted(items, key=lambda item: seeded_order(item.pair.id, settings.seed))
    sources: dict[str, list[tuple[_Item, set[Hashable]]]] = {}
    for item, keys in zip(ordered, _keys(ordered), strict=True):
        sources.setdefault(item.pair.source, []).append((item, keys))
    batches: list[list[_Item]] = []
    for _, members in sorted(sources.items()):
        packed = pack_batches([keys for _, keys in members], settings.batch_size)
        batches += [[members[position][0] for position in batch] for batch in packed]
    random.Random(settings.seed).shuffle(batches)
    return sorted(batches, key=lambda batch: len(batch) < settings.batch_size)


def _keys(items: Sequence[_Item]) -> list[set[Hashable]]:
    """What may occur once in a batch: the query, every document relevant to it in any pair, and the negatives."""
    queries = [_query_key(item) for item in items]
    relevant: dict[Hashable, set[Hashable]] = {}
    for item, query in zip(items, queries, strict=True):
        relevant.setdefault(query, set()).update(item.pair.positives)
    return [
        {("query", query), *relevant[query], *item.value.get("negatives", ())}
        for item, query in zip(items, queries, strict=True)
    ]


def _query_key(item: _Item) -> Hashable:
    query = item.value["query"]
    text, image = (query, None) if isinstance(query, str) else (query.get("text", ""), query.get("image"))
    return " ".join(text.split()).casefold(), image


def _write_all(output: Path, splits: dict[str, list[_Item]], batches: list[list[_Item]], report: BuildReport) -> None:
    train = ({**item.value, "batch": number} for number, batch in enumerate(batches) for item in batch)
    write_text(output / "train.jsonl", map(_line, train))
    for split in ("validation", "test"):
        lines, qrels = output / f"{split}.jsonl", output / f"{split}.qrels.tsv"
        if splits[split]:
            write_text(lines, (_line(item.value) for item in splits[split]))
            write_text(qrels, _qrels(splits[split]))
        else:
            # Of an earlier run with other fractions: its pairs are in the training file now.
            lines.unlink(missing_ok=True)
            qrels.unlink(missing_ok=True)
    write_text(output / "split.json", [json.dumps(asdict(report), indent=2) + "\n"])


def _line(value: dict) -> str:
    return json.dumps(value, ensure_ascii=False) + "\n"


def _qrels(items: Iterable[_Item]) -> Iterable[str]:
    yield "query-id\tcorpus-id\tscore\n"
    for item in items:
        for id in (item.pair.id, *item.pair.positives):
            if set(id) & set("\t\r\n"):
                raise InputError(
                    f"{item.pair.where}: the id {id!r} has a tab or line break, which no qrels file can hold"
                )
        yield from (f"{item.pair.id}\t{id}\t1\n" for id in item.pair.positives)
