"""Recognises the text of many pictures in many processes, and goes on where it was stopped."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

from polylens.data.images import decode_image, image_size
from polylens.data.ocr.engines import Engine, EngineSettings, make_engine
from polylens.data.ocr.output import OcrOutput
from polylens.data.ocr.pdf_text import PdfPage, page_text, text_layer_name
from polylens.data.ocr.pictures import Pictures, TextLayer
from polylens.data.records import Line, Quarantine
from polylens.data.workers import WorkerPool
from polylens.errors import InputError

__all__ = ["OcrReport", "quarantine_path", "recognise"]


@dataclass
class OcrReport:
    """What a run did.

    Attributes:
        new: pictures of this run.
        total: pictures in the file.
        lines: of text in the file.
        from_text_layer: pictures of this run that were not recognised, as their PDF says what they say.
        without_picture: documents that are text alone.
        quarantined: pictures that were set aside by this run.
        interrupted: whether Ctrl-C ended it; what was done is kept.
    """

    new: int = 0
    total: int = 0
    lines: int = 0
    from_text_layer: int = 0
    without_picture: int = 0
    quarantined: int = 0
    interrupted: bool = False


@dataclass(frozen=True, slots=True)
class _Task:
    """A picture: its file or content, and the page that it shows."""

    name: str
    source: Path | bytes
    page: PdfPage | None
    settings: EngineSettings
    text_layer: TextLayer


@dataclass(frozen=True, slots=True)
class _Found:
    """The size of a picture and its lines, or why there are none."""

    size: tuple[int, int] = (0, 0)
    engine: str = ""
    lines: tuple[dict[str, Any], ...] = ()
    reason: str = ""
    from_text_layer: bool = False


def recognise(
    pictures: Pictures,
    output: Path,
    settings: EngineSettings,
    *,
    text_layer: TextLayer = "auto",
    workers: int | None = None,
    on_bad_record: Literal["error", "quarantine"] = "error",
) -> OcrReport:
    """Write what stands in pictures into an OCR file (``schemas/ocr.schema.json``), a line a picture.

    Pictures that the file has already are not recognised again, so a run that was stopped, even by a kill, is simply
    started again; the file is the same as that of a run that was not stopped.

    Args:
        text_layer: where text comes from.
        workers: processes; by default as many as there are cores.
        on_bad_record: ``quarantine`` sets pictures aside that cannot be read.

    Raises:
        InputError: the engine is not installed, the file was made with other settings, a picture cannot be read (with
            ``on_bad_record="error"``), or none can.
    """
    report, aside = OcrReport(), quarantine_path(output)
    with OcrOutput(output, _card(pictures, settings, text_layer)) as made:
        try:
            with Quarantine(on_bad_record, aside) as bad:
                _Run(pictures, settings, text_layer, made, report, bad).all(workers or os.cpu_count() or 1)
            report.quarantined = bad.count
        except KeyboardInterrupt:
            report.interrupted = True
        else:
            _require_some(pictures, made, report.quarantined, aside)
            made.finish(pictures.names)
        counts = [made.lines(name) for name in pictures.names if name in made]
        report.total, report.lines = len(counts), sum(counts)
    return report


def quarantine_path(output: Path) -> Path:
    """Where pictures are set aside."""
    return output.with_name(f"{output.name}.quarantine.jsonl")


def _card(pictures: Pictures, settings: EngineSettings, text_layer: TextLayer) -> dict[str, Any]:
    """``<file>.run.json``: all that a record follows from, but for its picture."""
    engine = None if text_layer == "only" else _engine(settings).name
    layer = None if text_layer == "never" else text_layer_name()
    return {
        "pictures": pictures.place,
        "kind": pictures.kind,
        "engine": engine,
        "text_layer": layer,
        "pdf_files": pictures.pdf_files,
        "settings": asdict(settings),
    }


def _require_some(pictures: Pictures, made: OcrOutput, bad: int, aside: Path) -> None:
    if any(name in made for name in pictures.names):
        return
    said = f"; {bad} were set aside in {aside}" if bad else ""
    raise InputError(f"{pictures.place} has no picture that can be read{said}")


@dataclass(frozen=True, slots=True)
class _Run:
    pictures: Pictures
    settings: EngineSettings
    text_layer: TextLayer
    made: OcrOutput
    report: OcrReport
    bad: Quarantine

    def all(self, workers: int) -> None:
        """Recognise the pictures that are missing, and store or set aside each in turn."""
        names = self.pictures.names
        missing = [name for name in names if name not in self.made]
        progress = tqdm(total=len(names), initial=len(names) - len(missing), unit="picture", desc="ocr", disable=None)
        with progress, WorkerPool(_recognise, min(workers, max(1, len(missing)))) as pool:
            for task, found in pool.results(self._tasks(missing, progress)):
                found = found or _Found(reason=f"picture {task.name!r} makes the engine crash")
                if found.reason:
                    self._set_aside(task.name, found.reason)
                else:
                    self._store(task, found)
                progress.update()

    def _tasks(self, names: Sequence[str], progress: tqdm) -> Iterator[_Task]:
        for name in names:
            try:
                source = self.pictures.source(name)
            except InputError as error:
                self._set_aside(name, str(error))
            else:
                if source is not None:
                    page = None if self.text_layer == "never" else self.pictures.page(name)
                    yield _Task(name, source, page, self.settings, self.text_layer)
                    continue
                self.report.without_picture += 1
            progress.update()

    def _set_aside(self, name: str, reason: str) -> None:
        line = Line(Path(self.pictures.place, name), 1, 0, json.dumps({self.pictures.kind: name}).encode())
        self.bad.add(line, InputError(f"{self.pictures.place}: {reason}"))

    def _store(self, task: _Task, found: _Found) -> None:
        width, height = found.size
        record = {self.pictures.kind: task.name, "width": width, "height": height, "engine": found.engine}
        self.made.add({**record, "lines": list(found.lines)})
        self.report.new += 1
        self.report.from_text_layer += found.from_text_layer


@cache
def _engine(settings: EngineSettings) -> Engine:
    """The engine of this process; its models are loaded with the first picture."""
    return make_engine(settings)


def _recognise(task: _Task) -> _Found:
    """In a worker: what stands in a picture."""
    try:
        size = image_size(task.source, f"picture {task.name!r}")
        text = _layer(task, size)
        if text is not None:
            return _Found(size, text_layer_name(), tuple(text), from_text_layer=True)
        if task.text_layer == "only":
            return _Found(size, text_layer_name())
        image, engine = decode_image(task.source, f"picture {task.name!r}"), _engine(task.settings)
        return _Found(size, engine.name, tuple(engine.lines(image)))
    except InputError as error:
        return _Found(reason=str(error))


def _layer(task: _Task, size: tuple[int, int]) -> list[dict[str, Any]] | None:
    """The text layer of the page that a picture shows; a page whose text cannot be read has none."""
    try:
        return None if task.page is None else page_text(task.page, size)
    except InputError:
        return None
