"""Renders the pages of PDF files into a document store, in all cores, and goes on where it was stopped."""

from __future__ import annotations

import io
import json
import logging
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from tqdm import tqdm

from polylens.data.documents import Document
from polylens.data.images import MAX_PIXELS
from polylens.data.pdf_files import (
    PdfFile,
    RenderedFile,
    assign_names,
    find_pdfs,
    fingerprint,
    page_id,
    path_text,
)
from polylens.data.records import read_jsonl
from polylens.data.renderers import RENDERERS, PageRenderer, open_pdf
from polylens.data.store import MANIFEST, DocumentWriter
from polylens.data.workers import WorkerPool
from polylens.errors import InputError
from polylens.files import write_text

__all__ = ["RenderReport", "RenderSettings", "Skipped", "render_pdfs"]

_LOG = logging.getLogger(__name__)
_PAGES_PER_TASK = 4
_AHEAD = 1  # or workers would wait while pages are being stored
_MAX_SIDE = 65_500  # of a JPEG


@dataclass(frozen=True)
class RenderSettings:
    """How pages become pictures; kept in the store's ``render.json``, as all its pages must agree.

    Args:
        renderer: ``pymupdf`` or ``pdfium``.
        dpi: dots per inch. By default 144, at which a page of A4 is cut into as many slices as at 300.
        long_side: pixels of the longer side, instead of ``dpi``.
        image_format: ``jpeg`` or ``png``.
        quality: of JPEG, 1 to 95.
    """

    renderer: str = "pymupdf"
    dpi: float | None = None
    long_side: int | None = None
    image_format: Literal["jpeg", "png"] = "jpeg"
    quality: int = 90

    def __post_init__(self) -> None:
        if self.renderer not in RENDERERS:
            raise InputError(f"there is no renderer {self.renderer!r}; there are {', '.join(RENDERERS)}")
        if self.dpi is not None and self.long_side is not None:
            raise InputError("give either dpi or the pixels of the long side, not both")
        if self.image_format not in ("jpeg", "png"):
            raise InputError(f"the format of pages is jpeg or png, not {self.image_format!r}")
        if not 1 <= self.quality <= 95:
            raise InputError(f"the JPEG quality is 1 to 95, not {self.quality}")
        if not all(value is None or 0 < value < math.inf for value in (self.dpi, self.long_side)):
            raise InputError("dpi and the pixels of the long side must be positive")
        if self.dpi is None and self.long_side is None:
            object.__setattr__(self, "dpi", 144.0)

    def scale(self, size: tuple[float, float]) -> float:
        """Pixels a point for a page of ``size`` points.

        Raises:
            InputError: the page has no area, or would have too many pixels.
        """
        width, height = size
        if not (width > 0 and height > 0):
            raise InputError(f"has no area: it measures {width:g} x {height:g} points")
        scale = self.long_side / max(size) if self.long_side else (self.dpi or 0) / 72
        pixels = (round(width * scale), round(height * scale))
        if min(pixels) < 1 or max(pixels) > _MAX_SIDE or pixels[0] * pixels[1] > MAX_PIXELS:
            raise InputError(f"would have {pixels[0]} x {pixels[1]} pixels; 1 to {MAX_PIXELS} are allowed")
        return scale


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file, or a page of it (from 1), that could not be rendered; a line of ``skipped.jsonl``."""

    file: str
    page: int | None
    reason: str


@dataclass
class RenderReport:
    """What a run did.

    Attributes:
        files: that were given.
        new: pages stored by this run.
        total: pages in the store.
        skipped: by this run.
        interrupted: whether Ctrl-C ended it; what was stored is kept.
    """

    files: int
    new: int = 0
    total: int = 0
    skipped: list[Skipped] = field(default_factory=list)
    interrupted: bool = False


@dataclass(frozen=True, slots=True)
class _Task:
    """Pages (from 0) of a file; none at all to be told how many there are."""

    path: Path
    settings: RenderSettings
    pages: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class _Page:
    number: int
    image: bytes | None
    reason: str = ""


def render_pdfs(
    inputs: Sequence[str | Path],
    output: str | Path,
    settings: RenderSettings | None = None,
    *,
    workers: int | None = None,
    documents_per_shard: int = 4096,
) -> RenderReport:
    """Store every page of PDF files as a document ``<file>#<page>``, with pages counted from 1.

    Pages that the store already has are not rendered again, so a run that was stopped, even by a kill, is simply
    started again. What cannot be rendered is skipped with its reason in ``skipped.jsonl``.

    Args:
        inputs: files, and folders that are searched for ``*.pdf``.
        output: folder of the store.
        workers: processes; by default as many as there are cores.

    Raises:
        InputError: an input does not exist, the store was rendered with other settings, or not one page of all files
            could be rendered.
    """
    settings, output = settings or RenderSettings(), Path(output)
    files = find_pdfs(inputs)
    report = RenderReport(len(files))
    _check_folder(output)
    with DocumentWriter(output, "pages", documents_per_shard) as writer:
        before = len(writer)
        _check_settings(output / "render.json", settings, empty=not before)
        try:
            known, fresh = _name_files(output / "files.jsonl", files, report)
            with WorkerPool(_render, workers or os.cpu_count() or 1, ahead=_AHEAD) as pool:
                counts = _count_pages(pool, fresh, settings, report)
                # Noted before the first page is stored, so that a name never changes under its pages.
                _note_files(output / "files.jsonl", known, [fresh[path] for path in counts])
                ids = {
                    (path, page): page_id(fresh[path].name, page) for path in counts for page in range(counts[path])
                }
                _render_missing(pool, ids, settings, writer, report)
        except KeyboardInterrupt:
            report.interrupted = True
        finally:
            _write_skipped(output / "skipped.jsonl", files, report.skipped)
        report.new, report.total = len(writer) - before, len(writer)
    if not report.total and not report.interrupted:
        first = report.skipped[0]
        raise InputError(
            f"no page could be rendered: {first.file} {first.reason}; all reasons: {output}/skipped.jsonl"
        )
    return report


def _render_missing(
    pool: WorkerPool[_Task, list[_Page] | int | str],
    ids: Mapping[tuple[Path, int], str],
    settings: RenderSettings,
    writer: DocumentWriter,
    report: RenderReport,
) -> None:
    missing = {place: id for place, id in ids.items() if id not in writer}
    if len(missing) < len(ids):
        _LOG.info("%d of %d pages are already stored", len(ids) - len(missing), len(ids))
    tasks = list(_tasks(missing, settings))
    with tqdm(total=len(missing), unit="page", desc="render", disable=None) as progress:
        for task, pages in pool.results(tasks):
            for page in _pages_of(pool, task, pages):
                _store(page, task.path, missing, writer, report)
                progress.update()


def _count_pages(
    pool: WorkerPool[_Task, list[_Page] | int | str],
    files: Iterable[Path],
    settings: RenderSettings,
    report: RenderReport,
) -> dict[Path, int]:
    counts = {}
    for task, found in pool.results(_Task(path, settings) for path in files):
        if isinstance(found, int):
            counts[task.path] = found
        else:
            reason = found if isinstance(found, str) else "makes the renderer crash"
            report.skipped.append(Skipped(path_text(task.path), None, reason))
    return counts


def _tasks(missing: Mapping[tuple[Path, int], str], settings: RenderSettings) -> Iterator[_Task]:
    pages: dict[Path, list[int]] = {}
    for path, page in missing:
        pages.setdefault(path, []).append(page)
    for path, numbers in pages.items():
        for start in range(0, len(numbers), _PAGES_PER_TASK):
            yield _Task(path, settings, tuple(numbers[start : start + _PAGES_PER_TASK]))


def _pages_of(pool: WorkerPool, task: _Task, result: list[_Page] | int | str | None) -> Iterator[_Page]:
    """The pages of a task; if they killed their worker, one by one, to find the page to blame."""
    if isinstance(result, list):
        yield from result
    elif isinstance(result, str):
        yield from (_Page(page, None, result) for page in task.pages)
    elif len(task.pages) == 1:
        yield _Page(task.pages[0], None, "makes the renderer crash")
    else:
        for page in task.pages:
            single = _Task(task.path, task.settings, (page,))
            yield from _pages_of(pool, single, pool.alone(single))


def _store(
    page: _Page, path: Path, ids: Mapping[tuple[Path, int], str], writer: DocumentWriter, report: RenderReport
) -> None:
    if page.image is None:
        report.skipped.append(Skipped(path_text(path), page.number + 1, page.reason))
    else:
        writer.write(Document(ids[path, page.number], page.image))


# In a worker: the file of its last task.
_open: dict[tuple[str, Path], PageRenderer] = {}


def _render(task: _Task) -> list[_Page] | int | str:
    """Pictures of pages, or the number of pages, or why the file cannot be opened."""
    try:
        pdf = _opened(task.settings.renderer, task.path)
    except InputError as error:
        return str(error)
    if not task.pages:
        return len(pdf)
    return [_render_page(pdf, page, task.settings) for page in task.pages]


def _opened(renderer: str, path: Path) -> PageRenderer:
    """The file, kept open from one task to the next: a task is a few pages of what may be thousands."""
    if (renderer, path) not in _open:
        while _open:
            _open.popitem()[1].close()
        _open[renderer, path] = open_pdf(renderer, path)
    return _open[renderer, path]


def _render_page(pdf: PageRenderer, page: int, settings: RenderSettings) -> _Page:
    try:
        image = pdf.render(page, settings.scale(pdf.size(page)))
    except InputError as error:
        return _Page(page, None, str(error))
    buffer = io.BytesIO()
    if settings.image_format == "jpeg":
        image.save(buffer, "JPEG", quality=settings.quality)
    else:
        image.convert("RGB").save(buffer, "PNG")
    return _Page(page, buffer.getvalue())


def _check_folder(output: Path) -> None:
    if (output / MANIFEST).exists() and not (output / "render.json").exists():
        raise InputError(f"{output} is a document store that was not rendered; choose another folder")


def _check_settings(path: Path, settings: RenderSettings, *, empty: bool) -> None:
    now = asdict(settings)
    if empty or not path.exists():
        write_text(path, [json.dumps(now, indent=2) + "\n"])
        return
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
        changed = [f"{key} was {before.get(key)}, now {now[key]}" for key in now if before.get(key) != now[key]]
    except (ValueError, AttributeError) as error:
        raise InputError(f"{path} is damaged: {error}") from error
    if changed:
        raise InputError(
            f"{path.parent} was rendered with other settings: {'; '.join(changed)}. "
            "Use the same ones to go on, or another folder"
        )


def _name_files(
    path: Path, files: Sequence[PdfFile], report: RenderReport
) -> tuple[list[RenderedFile], dict[Path, RenderedFile]]:
    """What the store knows of files, and the names of those to render now."""
    prints: dict[Path, str] = {}
    for file in files:
        try:
            prints[file.path] = fingerprint(file.path)
        except OSError as error:
            report.skipped.append(Skipped(path_text(file.path), None, f"cannot be read: {error.strerror or error}"))
    known = _known_files(path)
    names = assign_names([file for file in files if file.path in prints], prints, known)
    for changed in sorted(set(prints) - set(names)):
        reason = "has changed since its pages were stored; render it into another folder"
        report.skipped.append(Skipped(path_text(changed), None, reason))
    return known, {pdf: RenderedFile(name, path_text(pdf), prints[pdf]) for pdf, name in names.items()}


def _note_files(path: Path, known: Sequence[RenderedFile], fresh: Sequence[RenderedFile]) -> None:
    entries = {entry.name: entry for entry in (*known, *fresh)}
    write_text(path, (json.dumps(asdict(entry), ensure_ascii=False) + "\n" for entry in entries.values()))


def _known_files(path: Path) -> list[RenderedFile]:
    try:
        return [RenderedFile(**value) for _, value in read_jsonl(path)] if path.exists() else []
    except TypeError as error:
        raise InputError(f"{path} is damaged: {error}") from error


def _write_skipped(path: Path, files: Sequence[PdfFile], skipped: Sequence[Skipped]) -> None:
    """What this run skipped, after what earlier runs skipped of other files."""
    given = {path_text(file.path) for file in files}
    earlier = [value for _, value in read_jsonl(path)] if path.exists() else []
    lines = [value for value in earlier if value.get("file") not in given] + [asdict(entry) for entry in skipped]
    if lines or path.exists():
        write_text(path, (json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
