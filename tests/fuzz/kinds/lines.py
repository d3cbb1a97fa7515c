"""JSON Lines: pairs, training files of the original, queries, documents."""

from __future__ import annotations

import base64
import json
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fuzz.mutators import dump, mutate_lines, mutate_value, several
from fuzz.outcome import require
from fuzz.samples import encoded, picture, write_store

from polylens.contracts import ImageRef, Record
from polylens.data.build_pairs import BuildSettings, build_pairs
from polylens.data.convert import convert
from polylens.data.documents import Document, DocumentSource
from polylens.data.images import ImageOpener
from polylens.data.pairs import Pair, Pairs, read_pairs, read_queries
from polylens.data.store import open_documents
from polylens.data.validate import validate
from polylens.errors import InputError


def mutated(rng: random.Random, values: Sequence[Any]) -> bytes:
    """Lines of JSON, with values, bytes or line ends changed."""
    values = list(values)
    for _ in range(rng.choice([0, 1, 1, 2])):
        place = rng.randrange(len(values))
        values[place] = several(rng, mutate_value, values[place]) if _is_plain(values[place]) else values[place]
    data = "".join(dump(value) + "\n" for value in values).encode("utf-8", errors="surrogatepass")
    return mutate_lines(rng, data) if rng.random() < 0.4 else data


def _is_plain(value: Any) -> bool:
    return isinstance(value, dict | list | str)


def lines_of(path: Path) -> dict[int, bytes]:
    """The lines of a file that are not blank, by their number from 1."""
    return {number: line for number, line in enumerate(path.read_bytes().split(b"\n"), 1) if line.strip()}


def value_of(number: int, line: bytes) -> Any:
    """What stands in a line, read by rules of its own: no key twice, no number that JSON does not have."""

    def members(items: list[tuple[str, Any]]) -> dict[str, Any]:
        require(len(dict(items)) == len(items), f"line {number} was accepted with a key that stands in it twice")
        return dict(items)

    def number_of(text: str) -> float:
        require(math.isfinite(float(text)), f"line {number} was accepted with {text}, which became infinite")
        return float(text)

    text = line.decode("utf-8-sig" if number == 1 else "utf-8")
    return json.loads(text, object_pairs_hook=members, parse_float=number_of)


def set_aside(path: Path, source: Path, lines: dict[int, bytes]) -> set[int]:
    """Numbers of the lines in a quarantine file, each of which has its reason and its text."""
    found: set[int] = set()
    for line in path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else ():
        entry = json.loads(line)
        file, _, number = entry["where"].rpartition(":")
        require(file == str(source) and entry["reason"], f"a quarantined line does not say where and why: {entry}")
        require(int(number) not in found, f"line {number} was set aside twice")
        require(
            entry["record"] == lines[int(number)].decode("utf-8", errors="replace").rstrip("\r\n"),
            f"line {number} was set aside in another form",
        )
        found.add(int(number))
    return found


def parts_of(text: str, image: Any) -> tuple[Any, ...]:
    return (text,) if image is None else (image, "\n" + text)


class PairsFile:
    """Pairs that name documents of a store and pictures below their folder."""

    VALUES = (
        {
            "id": "q1",
            "query": {"text": "pump?", "image": "ok.png"},
            "positives": ["a.pdf#1"],
            "negatives": ["b.pdf#1"],
        },
        {"id": "q2", "query": "Größe 泵", "positives": ["b.pdf#1", "b.pdf#2"], "source": "s", "batch": 0},
        {"query": {"text": "x", "instruction": "Find: "}, "positives": ["c.pdf#1"], "metadata": {"answer": 0.5}},
        {"id": "q4", "query": "four", "positives": ["d.pdf#1"], "negatives": ["e.pdf#1", "e.pdf#2"], "batch": 3},
        {"id": "q5", "query": "five", "positives": ["note"]},
        {"id": "q6", "query": {"text": "six"}, "positives": ["f.pdf#2"]},
    )

    def __init__(self, base: Path) -> None:
        self.base = base
        self.store = write_store(base / "store")
        self.documents = open_documents([self.store])
        (base / "secret.png").write_bytes(picture(5))

    def write(self, rng: random.Random, folder: Path) -> None:
        values = [dict(value) for value in self.VALUES]
        if rng.random() < 0.15:
            secret = self.base / "secret.png"
            paths = ["../base/secret.png", str(secret), secret.as_uri(), "link.png", "folder", "ok.png/", "./ok.png"]
            values[0] = {**values[0], "query": {"image": rng.choice(paths)}}
        (folder / "pairs.jsonl").write_bytes(mutated(rng, values))
        (folder / "ok.png").write_bytes(picture(1))
        (folder / "link.png").symlink_to(self.base / "secret.png")
        (folder / "folder").symlink_to(self.base)

    def read(self, folder: Path) -> int:
        path = folder / "pairs.jsonl"
        lines = lines_of(path)
        aside = folder / "quarantine.jsonl"
        pairs = read_pairs(
            [path], documents=self.documents, query_instruction="Q: ", on_bad_record="quarantine", quarantine=aside
        )
        bad = self.check(path, lines, pairs, set_aside(aside, path, lines))
        self._check_validate(path, bad)
        self._check_pictures(folder, pairs.pairs)
        self._check_build(folder, lines, pairs.pairs)
        return len(bad)

    def check(self, path: Path, lines: dict[int, bytes], pairs: Pairs, bad: set[int]) -> set[int]:
        good = {int(pair.where.rpartition(":")[2]): pair for pair in pairs.pairs}
        require(len(good) == len(pairs.pairs) and pairs.quarantined == len(bad), "the counts are wrong")
        require(not good.keys() & bad, "a line was both delivered and set aside")
        lost = lines.keys() - good.keys() - bad
        require(not lost, f"lines {sorted(lost)} were neither delivered nor set aside")
        for number, pair in good.items():
            self.compare(path, number, pair, value_of(number, lines[number]), pairs.documents)
        return bad

    def compare(self, path: Path, number: int, pair: Pair, value: Any, documents: DocumentSource) -> None:
        query = {"text": value["query"]} if isinstance(value["query"], str) else value["query"]
        text = query.get("instruction", "Q: ") + query.get("text", "")
        image = ImageRef("path", query["image"]) if "image" in query else None
        expected = (
            value.get("id", f"{path.name}:{number}"),
            parts_of(text, image),
            tuple(value["positives"]),
            tuple(value.get("negatives", ())),
            value.get("source", path.stem),
            value.get("batch", -1),
        )
        found = (pair.id, pair.query.messages[0].parts, pair.positives, pair.negatives, pair.source, pair.batch)
        require(found == expected, f"line {number} was read as {found}, it says {expected}")

    def _check_validate(self, path: Path, bad: set[int]) -> None:
        findings = validate(path, kind="pairs", documents=self.documents)
        named = {int(problem.removeprefix(f"{path}:").partition(":")[0]) for problem in findings.problems}
        require(findings.bad == len(bad) and bad <= named, f"validate found {named}, set aside were {bad}")
        require(findings.records == len(lines_of(path)), "validate did not count every line")

    def _check_pictures(self, folder: Path, pairs: Sequence[Pair]) -> None:
        images = ImageOpener(folder)
        for ref in (ref for pair in pairs for ref in pair.query.images):
            try:
                images.open(ref, "query")
            except InputError:
                continue
            real = (folder / str(ref.value)).resolve()
            require(real.is_relative_to(folder.resolve()), f"{ref.value} was read outside the image root")

    def _check_build(self, folder: Path, lines: dict[int, bytes], pairs: Sequence[Pair]) -> None:
        settings = BuildSettings(batch_size=2, validation=0.2, test=0.2)
        try:
            report = build_pairs(
                [folder / "pairs.jsonl"], self.documents, folder / "built", settings, on_bad_record="quarantine"
            )
        except InputError:
            return  # too few pairs are left, or an id that no qrels file can hold
        names = ("train", "validation", "test")
        files = [path for path in (folder / "built" / f"{name}.jsonl" for name in names) if path.exists()]
        built = [json.loads(line) for path in files for line in lines_of(path).values()]
        require(sorted(value["id"] for value in built) == sorted(pair.id for pair in pairs), "pairs were lost")
        self._compare_built({value["id"]: value for value in built}, lines, pairs, report.dropped_negatives)

    def _compare_built(
        self, built: dict[str, Any], lines: dict[int, bytes], pairs: Sequence[Pair], dropped: int
    ) -> None:
        for pair in pairs:
            number = int(pair.where.rpartition(":")[2])
            value = {**value_of(number, lines[number]), "id": pair.id, "source": pair.source}
            found = {**built[pair.id]}
            for key in ("batch", "negatives"):
                dropped -= len(value.get(key, ())) - len(found.get(key, ())) if key == "negatives" else 0
                value.pop(key, None)
                found.pop(key, None)
            require(json.dumps(found, sort_keys=True) == json.dumps(value, sort_keys=True), f"{pair.id} was altered")
        require(dropped == 0, "negatives were left out and not counted")

    def commands(self, folder: Path) -> Sequence[Sequence[str]]:
        pairs, store, out = str(folder / "pairs.jsonl"), str(self.store), str(folder / "command")
        return [
            ["data", "validate", pairs, "--documents", store],
            ["data", "pairs", "--records", pairs, "--documents", store, "--output", out, "--batch-size", "2"],
            ["data", "stats", pairs],
            ["data", "show", pairs],
        ]


class InlinePairsFile(PairsFile):
    """The original's training files: documents and pictures of queries stand in the lines."""

    VALUES = (
        {"index": 0, "query": {"text": "one", "image": None}, "pos": [{"text": "", "image": encoded(1)}], "neg": []},
        {"query": {"text": "two", "instruction": "Find: "}, "pos": [{"image": encoded(2), "text": "t"}], "neg": None},
        {"query": "three", "pos": {"text": "page three"}, "neg": {"text": "other"}},
        {"query": {"text": "four"}, "pos": [{"text": "a"}, {"text": "b"}], "neg": [{"image": encoded(3)}]},
    )

    def write(self, rng: random.Random, folder: Path) -> None:
        (folder / "pairs.jsonl").write_bytes(mutated(rng, self.VALUES))

    def read(self, folder: Path) -> int:
        path, aside = folder / "pairs.jsonl", folder / "quarantine.jsonl"
        lines = lines_of(path)
        pairs = read_pairs(
            [path], documents=None, query_instruction="Q: ", on_bad_record="quarantine", quarantine=aside
        )
        bad = self.check(path, lines, pairs, set_aside(aside, path, lines))
        for id in pairs.documents.ids():
            pairs.documents.read(id)
        if not bad:
            self._check_convert(folder, pairs)
        return len(bad)

    def compare(self, path: Path, number: int, pair: Pair, value: Any, documents: DocumentSource) -> None:
        if "pos" not in value:
            super().compare(path, number, pair, value, documents)
            return
        query = {"text": value["query"]} if isinstance(value["query"], str) else value["query"]
        own = query.get("instruction")
        text = ("Q: " if own is None else own) + (query.get("text") or "")
        parts = pair.query.messages[0].parts
        require(parts[-1] == (("\n" + text) if query.get("image") else text), f"line {number}: the query was altered")
        if query.get("image"):
            require(documents.read(parts[0].value).image == base64.b64decode(query["image"]), "another query picture")
        positives = [_content(part) for part in _several(value["pos"])]
        negatives = [_content(part) for part in _several(value.get("neg"))]
        found = [_content_of(documents.read(id)) for id in pair.positives]
        require(found == list(dict.fromkeys(positives)), f"line {number}: other positives")
        found = [_content_of(documents.read(id)) for id in pair.negatives]
        expected = [content for content in dict.fromkeys(negatives) if content not in positives]
        require(found == expected, f"line {number}: other negatives")

    def _check_convert(self, folder: Path, pairs: Pairs) -> None:
        try:
            convert([folder / "pairs.jsonl"], folder / "store")
        except InputError:
            return  # pictures in queries have no place in a pairs file
        store = open_documents([folder / "store"])
        again = read_pairs([folder / "store" / "pairs.jsonl"], documents=store)
        for old, new in zip(pairs.pairs, again.pairs, strict=True):
            require(old.id == new.id and old.positives == new.positives, f"{old.id} was altered by convert")
            for id in (*old.positives, *old.negatives):
                require(_content_of(store.read(id)) == _content_of(pairs.documents.read(id)), f"{id} was altered")

    def commands(self, folder: Path) -> Sequence[Sequence[str]]:
        pairs = str(folder / "pairs.jsonl")
        return [
            ["data", "validate", pairs],
            ["data", "convert", pairs, "--output", str(folder / "command")],
            ["data", "stats", pairs],
            ["data", "show", pairs],
        ]


def _several(value: Any) -> list[Any]:
    return [value] if isinstance(value, dict) else value or []


def _content(part: dict[str, Any]) -> tuple[bytes | None, str]:
    return (base64.b64decode(part["image"]) if part.get("image") else None), part.get("text") or ""


def _content_of(document: Document) -> tuple[bytes | None, str]:
    return document.image, document.text


class QueriesFile:
    """Queries of BEIR, of the original, and lines of pairs."""

    VALUES = (
        {"_id": "q1", "text": "one"},
        {"_id": 2, "text": "two", "metadata": {}},
        {"id": "q3", "text": "", "image": encoded(1)},
        {"id": "q4", "query": {"text": "four"}, "positives": ["a.pdf#1"]},
        {"text_id": "q5", "text": "five", "instruction": "Find: "},
    )

    def __init__(self, base: Path) -> None: ...

    def write(self, rng: random.Random, folder: Path) -> None:
        (folder / "queries.jsonl").write_bytes(mutated(rng, self.VALUES))

    def read(self, folder: Path) -> int:
        path = folder / "queries.jsonl"
        lines = lines_of(path)
        findings = validate(path, kind="queries")
        require(findings.records == len(lines), "validate did not count every line")
        records = read_queries(path, "Q: ")
        require(len(records) == len(lines), f"{len(records)} of {len(lines)} queries were delivered")
        for record, (number, line) in zip(records, lines.items(), strict=True):
            _compare_query(record, number, value_of(number, line))
        return 0

    def commands(self, folder: Path) -> Sequence[Sequence[str]]:
        path = str(folder / "queries.jsonl")
        return [["data", "validate", path], ["data", "stats", path], ["data", "show", path]]


def _compare_query(record: Record, number: int, value: Any) -> None:
    if "positives" in value:
        require(record.id == value.get("id", f"queries.jsonl:{number}"), f"line {number}: another id")
        value = {"text": value["query"]} if isinstance(value["query"], str) else value["query"]
        image = ImageRef("path", value["image"]) if value.get("image") else None
    else:
        require(record.id == str(_id_of(value)), f"line {number}: another id")
        image = ImageRef("bytes", base64.b64decode(value["image"])) if value.get("image") else None
    own = value.get("instruction")
    text = ("Q: " if own is None else own) + (value.get("text") or "")
    require(record.messages[0].parts == parts_of(text, image), f"line {number}: the query was altered")


def _id_of(value: dict[str, Any]) -> Any:
    return next(value[key] for key in ("_id", "id", "text_id", "sample_id", "filename") if value.get(key) is not None)


class DocumentsFile:
    """Documents of BEIR and of the original."""

    VALUES = (
        {"_id": "d1", "title": "Pump", "text": "turns"},
        {"_id": 2, "text": "Größe 泵"},
        {"id": "d3", "text": "", "image": encoded(1)},
        {"filename": "d4.png", "image_base64": encoded(2)},
        {"id": "d3", "text": "", "image": encoded(1)},
    )

    def __init__(self, base: Path) -> None: ...

    def write(self, rng: random.Random, folder: Path) -> None:
        (folder / "corpus.jsonl").write_bytes(mutated(rng, self.VALUES))

    def read(self, folder: Path) -> int:
        path = folder / "corpus.jsonl"
        lines = lines_of(path)
        findings = validate(path, kind="documents")
        require(findings.records == len(lines), "validate did not count every line")
        source = open_documents([path])
        values = [value_of(number, line) for number, line in lines.items()]
        require(list(source.ids()) == list(dict.fromkeys(str(_id_of(value)) for value in values)), "other documents")
        bad = sum(_unreadable(source, value) for value in values)
        require(not bad or findings.problems, "validate did not find what cannot be read")
        return bad

    def commands(self, folder: Path) -> Sequence[Sequence[str]]:
        path = str(folder / "corpus.jsonl")
        convert_to = ["data", "convert", path, "--output", str(folder / "command")]
        return [["data", "validate", path], ["data", "stats", path], ["data", "show", path], convert_to]


def _unreadable(source: DocumentSource, value: dict[str, Any]) -> bool:
    """Whether a document is refused when it is read; otherwise it must be that of the line."""
    try:
        document = source.read(str(_id_of(value)))
    except InputError:
        return True
    image = value.get("image") or value.get("image_base64")
    title, text = value.get("title") or "", value.get("text") or ""
    expected = base64.b64decode(image) if image else None, f"{title} {text}".strip() if title else text
    require((document.image, document.text) == expected, f"document {document.id!r} was altered")
    return False
