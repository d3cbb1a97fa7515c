"""Makes pictures with subtitles in all cores, and goes on where it was stopped."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

from polylens.config import schemas
from polylens.config.json_text import read_json_object
from polylens.data.images import find_pictures
from polylens.data.records import Quarantine
from polylens.data.subtitles.fonts import Face, find_faces
from polylens.data.subtitles.pictures import Task, make_pictures, picture_name
from polylens.data.subtitles.plans import Planner
from polylens.data.subtitles.sentences import Sentence, read_sentences
from polylens.data.subtitles.settings import SubtitleSettings
from polylens.data.workers import WorkerPool
from polylens.errors import InputError
from polylens.files import write_text

__all__ = ["PROMPT", "SynthesisReport", "synthesize_subtitles"]

PROMPT = "Read the subtitle at the bottom of this picture. Answer with its text and nothing else."

LABELS, CARD = "labels.jsonl", "synthesis.json"

_PICTURES_PER_TASK = 32
_LEFT_BEHIND = 60.0
"""Seconds after which a file that was not finished belongs to a run that was killed."""

_ENDS = {"jpeg": b"\xff\xd9", "png": b"IEND\xaeB`\x82"}
"""Last bytes of a whole picture: after a power cut, a file may have its name and not its content."""


@dataclass
class SynthesisReport:
    """What a run did.

    Attributes:
        new: pictures made by this run.
        total: pictures that the labels name.
        quarantined: sentences that were set aside.
        damaged: backgrounds that could not be opened, with the reason.
        interrupted: whether Ctrl-C ended it; what was made is kept.
    """

    new: int = 0
    total: int = 0
    quarantined: int = 0
    damaged: dict[str, str] = field(default_factory=dict)
    interrupted: bool = False


def synthesize_subtitles(
    images: str | Path,
    sentences: str | Path,
    output: str | Path,
    count: int,
    *,
    seed: int = 42,
    settings: SubtitleSettings | None = None,
    prompt: str = PROMPT,
    workers: int | None = None,
    on_bad_record: Literal["error", "quarantine"] = "error",
) -> SynthesisReport:
    """Draw subtitles into pictures: ``output`` gets ``images`` and ``labels.jsonl``, a conversation for each.

    A picture follows from the seed and its number: more of them, fewer, other processes or another order change
    nothing in its bytes. A run that was stopped, even by a kill, is simply started again, with any ``count``.

    Args:
        images: folder of backgrounds, with folders in it.
        sentences: text file, one sentence a line.
        prompt: what the user asks in every conversation.
        workers: processes; by default as many as there are cores.
        on_bad_record: ``quarantine`` sets sentences aside that no font can show, or that are too long, and takes other
            backgrounds in place of those that cannot be opened.

    Raises:
        InputError: something that was given cannot be used, or ``output`` was made with other settings.
    """
    settings, output, images = settings or SubtitleSettings(), Path(output), Path(images)
    if count < 1:
        raise InputError(f"the count of pictures is {count}; it must be at least 1")
    if not prompt.strip() or "<image" in prompt:
        raise InputError(f"the prompt {prompt!r} must be a question, without placeholders of pictures")
    faces, backgrounds = find_faces(settings.fonts), find_pictures(images)
    with Quarantine(on_bad_record, output / "quarantine.jsonl") as bad:
        found = read_sentences(Path(sentences), faces, settings, bad)
    report = SynthesisReport(total=count, quarantined=bad.count)
    _begin(output, _card(settings, seed, found, faces, images, backgrounds))
    planner = Planner(found, backgrounds, settings, seed)
    job = _Job(planner, faces, images, output, on_bad_record == "quarantine")
    _make_missing(job, count, workers, report)
    if not report.interrupted:
        write_text(output / LABELS, (job.label(number, prompt) for number in range(1, count + 1)))
    return report


def _card(
    settings: SubtitleSettings,
    seed: int,
    sentences: Sequence[Sentence],
    faces: Sequence[Face],
    images: Path,
    backgrounds: Sequence[str],
) -> dict[str, Any]:
    """All that the pictures follow from, but for their number."""
    sizes = (f"{name}\0{(images / name).stat().st_size}\n" for name in backgrounds)
    used = sorted({number for sentence in sentences for number in sentence.faces})
    return {
        "settings": json.loads(json.dumps(asdict(settings))),
        "seed": seed,
        "sentences": _digest(f"{sentence.text}\n" for sentence in sentences),
        "backgrounds": _digest(sizes),
        "fonts": [
            {"file": faces[n].file.name, "index": faces[n].index, "bytes": faces[n].file.stat().st_size} for n in used
        ],
    }


def _digest(parts: Iterator[str]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _begin(output: Path, card: dict[str, Any]) -> None:
    """Note what is being made, or see that it is what was begun here."""
    path = output / CARD
    if path.exists():
        before = read_json_object(path)
        schemas.check("synthesis", before, str(path))
        changed = [name for name in card if before[name] != card[name]]
        if changed:
            raise InputError(f"{output} was made with other {', '.join(changed)} ({path}); choose another --output")
    elif (output / "images").exists() or (output / LABELS).exists():
        raise InputError(f"{output} has pictures or labels, and no {CARD} says how they were made; choose another")
    else:
        write_text(path, [json.dumps(card, indent=2, ensure_ascii=False), "\n"])
    for leftover in (output / "images").glob("*/*.tmp"):
        if time.time() - leftover.stat().st_mtime > _LEFT_BEHIND:
            leftover.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class _Job:
    """The pictures of a folder.

    Attributes:
        faces: fonts, by the numbers that plans give.
        images: folder of the backgrounds.
        go_on: take other backgrounds in place of those that cannot be opened.
    """

    planner: Planner
    faces: Sequence[Face]
    images: Path
    output: Path
    go_on: bool

    def place(self, number: int) -> Path:
        return self.output / picture_name(number, self.planner.settings)

    def missing(self, count: int) -> list[int]:
        """Numbers of the pictures that are not there, and folders for them."""
        image_format = self.planner.settings.image_format
        missing = [number for number in range(1, count + 1) if not _is_whole(self.place(number), image_format)]
        for folder in {self.place(number).parent for number in missing}:
            folder.mkdir(parents=True, exist_ok=True)
        return missing

    def tasks(self, numbers: Sequence[int]) -> Iterator[Task]:
        for start in range(0, len(numbers), _PICTURES_PER_TASK):
            plans = [self.planner.plan(number) for number in numbers[start : start + _PICTURES_PER_TASK]]
            fonts = [self.faces[plan.face] for plan in plans]
            drawn = tuple((plan, (font.file, font.index)) for plan, font in zip(plans, fonts, strict=True))
            yield Task(drawn, self.images, self.output, self.planner.settings, self.go_on)

    def label(self, number: int, prompt: str) -> str:
        record = {
            "id": f"{self.planner.seed}-{number:07}",
            "image": picture_name(number, self.planner.settings),
            "conversations": [
                {"role": "user", "content": f"<image>\n{prompt}"},
                {"role": "assistant", "content": self.planner.text(number)},
            ],
        }
        return json.dumps(record, ensure_ascii=False) + "\n"


def _make_missing(job: _Job, count: int, workers: int | None, report: SynthesisReport) -> None:
    missing = job.missing(count)
    processes = min(workers or os.cpu_count() or 1, max(1, -(-len(missing) // _PICTURES_PER_TASK)))
    progress = tqdm(total=count, initial=count - len(missing), unit="picture", desc="synth", disable=None)
    try:
        with progress, WorkerPool(make_pictures, processes) as pool:
            for task, damaged in pool.results(job.tasks(missing)):
                if damaged is None:
                    first, last = (task.plans[end][0].number for end in (0, -1))
                    raise InputError(f"one of the pictures {first} to {last} makes the program crash")
                report.damaged.update(damaged)
                report.new += len(task.plans)
                progress.update(len(task.plans))
    except KeyboardInterrupt:
        report.interrupted = True


def _is_whole(path: Path, image_format: str) -> bool:
    end = _ENDS[image_format]
    try:
        with path.open("rb") as file:
            file.seek(-len(end), os.SEEK_END)
            return file.read() == end
    except OSError:
        return False
