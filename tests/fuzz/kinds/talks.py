"""Conversations, and files of answers with their references."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from fuzz.kinds.lines import lines_of, mutated, set_aside, value_of
from fuzz.mutators import dump, mutate_bytes, mutate_value, several
from fuzz.outcome import require
from fuzz.samples import picture

from polylens.contracts import ImageRef, Record
from polylens.data.conversations import read_conversations
from polylens.data.validate import validate
from polylens.errors import InputError
from polylens.generation.answers import AnsweredQuestion
from polylens.generation.evaluation import evaluate_answers
from polylens.generation.formats.answer_files import read_answers
from polylens.generation.text_scores import MEASURES, Normalisation


def said(*texts: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[number % 2], "content": text} for number, text in enumerate(texts)]


class ConversationsFile:
    """Conversations of both forms, as JSON Lines or as an array, with pictures below their folder."""

    VALUES = (
        {"id": "c1", "image": "ok.png", "conversations": said("<image>\nwhich colour?", "red")},
        {"id": "c2", "image": ["ok.png", "two.png"], "conversations": said("<image>x<image>", "y", "Größe 泵?", "z")},
        {"id": "c3", "conversations": said("what?", "that")},
        {"id": 4, "image": {"<image_00>": "ok.png", "<image_01>": "two.png"}}
        | {"conversations": said("<image_01> or <image_00>?", "both")},
        {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "ho"}]},
        {"id": "c6", "image": "two.png", "conversations": [{"role": "system", "content": "short"}, *said("a?", "b")]},
    )

    def __init__(self, base: Path) -> None: ...

    def write(self, rng: random.Random, folder: Path) -> None:
        for number, name in enumerate(("ok.png", "two.png")):
            (folder / name).write_bytes(picture(number))
        if rng.random() < 0.3:
            (folder / "talk.json").write_bytes(_array(rng, self.VALUES))
        else:
            (folder / "talk.jsonl").write_bytes(mutated(rng, self.VALUES))

    def read(self, folder: Path) -> int:
        (path,) = folder.glob("talk.*")
        aside = folder / "quarantine.jsonl"
        is_array = path.read_bytes().lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"[")
        try:
            found = read_conversations([path], on_bad_record="quarantine", quarantine=aside)
        except InputError as error:
            require(is_array or "no conversations are left" in str(error), f"all is lost: {error}")
            raise
        if is_array:
            return self._array_read(path, found.records, found.quarantined)
        lines = lines_of(path)
        bad = set_aside(aside, path, lines)
        good = {int(record.where.rpartition(":")[2]): record for record in found.records}
        require(len(good) == len(found.records) and found.quarantined == len(bad), "the counts are wrong")
        require(not good.keys() & bad, "a line was both delivered and set aside")
        require(not lines.keys() - good.keys() - bad, "a line was neither delivered nor set aside")
        for number, record in good.items():
            compare(record, value_of(number, lines[number]))
        findings = validate(path, kind="conversations")
        require(findings.bad >= len(bad), "validate did not find what is set aside")
        return len(bad)

    def _array_read(self, path: Path, records: Sequence[Record], bad: int) -> int:
        values = json.loads(path.read_text(encoding="utf-8-sig"), parse_int=str)
        require(len(records) + bad == len(values), "a record was neither delivered nor set aside")
        if not bad:
            for record, value in zip(records, values, strict=True):
                compare(record, value)
        return bad

    def commands(self, folder: Path) -> Sequence[Sequence[str]]:
        (path,) = map(str, folder.glob("talk.*"))
        model = ["--model-plugin", "minicpmv", "--model", "tiny"]
        page = ["inspect", path, *model, "--output", str(folder / "page.html")]
        predict = ["predict", *model, "--input", path, "--output", str(folder / "answers.jsonl"), "--num-workers", "0"]
        predict += ["--max-new-tokens", "1", "--on-bad-record", "quarantine", "--device", "cpu"]
        return [["data", "validate", path], ["data", "stats", path], ["data", "show", path], page, predict]


def _array(rng: random.Random, values: Iterable[Any]) -> bytes:
    changed = [several(rng, mutate_value, value) if rng.random() < 0.2 else value for value in values]
    data = ("[" + ",\n".join(map(dump, changed)) + "]").encode("utf-8", errors="surrogatepass")
    return mutate_bytes(rng, data) if rng.random() < 0.3 else data


def compare(record: Record, value: Any) -> None:
    """Every word of the turns is there in its order, but for placeholders; every picture once."""
    turns = value["conversations"]
    require(len(record.messages) == len(turns), f"{record.where}: turns were lost")
    for message, turn in zip(record.messages, turns, strict=True):
        text = turn.get("content", turn.get("value"))
        shown = "".join(part for part in message.parts if isinstance(part, str))
        kept = text
        for place in ("<image>", *(f"<image_{n:02}>" for n in range(2))):
            kept = kept.replace(place, "") if any(isinstance(part, ImageRef) for part in message.parts) else kept
        require(shown.removeprefix("\n") == kept.removeprefix("\n"), f"{record.where}: {shown!r} is not {text!r}")
    image = value.get("image")
    pictures = [] if image is None else image if isinstance(image, list) else [image]
    pictures = list(image.values()) if isinstance(image, dict) else pictures
    found = sorted(str(ref.value) for ref in record.images)
    require(found == sorted(pictures), f"{record.where}: other pictures: {found}")


class AnswersFile:
    """Answers, and references of their own file."""

    VALUES = (
        {
            "id": "a1",
            "answer": "red",
            "references": ["Red", "crimson"],
            "question": "?",
            "tokens": 1,
            "finished": True,
        },
        {"id": 2, "answer": "", "references": [""]},
        {"id": "a3", "answer": "Größe 泵 e\u0301"},
        {"id": "a4", "answer": "4.2 bar", "references": ["4,2 bar"], "tokens": 3, "finished": False},
    )
    REFERENCES = tuple({"id": id, "references": ["red", "x y"]} for id in ("a1", "2", "a3", "a4", "a5"))

    def __init__(self, base: Path) -> None: ...

    def write(self, rng: random.Random, folder: Path) -> None:
        spoilt = rng.random() < 0.6
        answers = mutated(rng, self.VALUES) if spoilt else _plain(self.VALUES)
        (folder / "answers.jsonl").write_bytes(answers)
        (folder / "references.jsonl").write_bytes(_plain(self.REFERENCES) if spoilt else mutated(rng, self.REFERENCES))

    def read(self, folder: Path) -> int:
        path = folder / "answers.jsonl"
        self._check(path, read_answers(path))
        referred = read_answers(path, folder / "references.jsonl")
        known = [value_of(n, line) for n, line in lines_of(folder / "references.jsonl").items()]
        wanted = {str(value["id"]): tuple(value["references"]) for value in known}
        require(all(one.references == wanted[one.id] for one in referred), "other references")
        return 0

    def _check(self, path: Path, found: Sequence[AnsweredQuestion]) -> None:
        values = [value_of(number, line) for number, line in lines_of(path).items()]
        require(len(found) == len(values), "answers were lost")
        for one, value in zip(found, values, strict=True):
            require((one.id, one.answer) == (str(value["id"]), value["answer"]), f"{one.where}: another answer")
            require(one.references == tuple(value.get("references", ())), f"{one.where}: other references")
        scores = evaluate_answers(found, MEASURES, Normalisation()).scores
        require(all(score is None or 0 <= score < float("inf") for score in scores.values()), f"scores: {scores}")

    def commands(self, folder: Path) -> Sequence[Sequence[str]]:
        path, references = str(folder / "answers.jsonl"), str(folder / "references.jsonl")
        vqa = ["evaluate", "vqa", "--answers", path, "--references", references, "--output", str(folder / "s.json")]
        return [["evaluate", "ocr", "--answers", path], vqa]


def _plain(values: Iterable[Any]) -> bytes:
    return "".join(dump(value) + "\n" for value in values).encode("utf-8")
