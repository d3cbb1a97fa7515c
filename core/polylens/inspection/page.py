"""The page of ``polylens inspect``: one file, nothing else is loaded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from jinja2 import Environment, StrictUndefined
from tqdm import tqdm

from polylens import plugins
from polylens.contracts import Record
from polylens.data.images import ImageOpener
from polylens.data.prepare import Preparer
from polylens.data.store import open_documents
from polylens.engine.frontend import Frontend, load_frontend
from polylens.engine.loading import plugin_of
from polylens.engine.sources import ModelSource, find_model
from polylens.errors import InputError
from polylens.files import write_text
from polylens.inspection.entries import Entries, Entry, Role, read_entries
from polylens.inspection.samples import Sample, make_sample


@dataclass(frozen=True, slots=True)
class Request:
    """What to show. Lengths, instruction and negatives are those of a run.

    Attributes:
        plugin: ``None`` if the folder's ``polylens.json`` names it.
        model: model folder, adapter folder, hub id or preset; its weights are not read.
        base: model under the adapter that ``model`` is, instead of the one that it names.
        documents: document stores that the records name.
        image_root: where relative picture paths start; by default the folder of the records.
        id: of the only record to show.
        limit: of records.
    """

    records: Path
    plugin: str | None
    model: str
    base: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    documents: tuple[Path, ...] = ()
    image_root: Path | None = None
    id: str | None = None
    limit: int = 20
    max_length: int = 2048
    query_max_length: int = 512
    document_max_length: int = 2048
    query_instruction: str = ""
    hard_negatives: int = 0

    def __post_init__(self) -> None:
        lowest = {"limit": 1, "max_length": 1, "query_max_length": 1, "document_max_length": 1, "hard_negatives": 0}
        for name, least in lowest.items():
            if getattr(self, name) < least:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least {least}")


@dataclass(frozen=True, slots=True)
class Shown:
    """A member of an entry: what is made of it, or why nothing is."""

    role: Role
    name: str
    sample: Sample | None = None
    error: str = ""


@dataclass(frozen=True, slots=True)
class Section:
    """An entry on the page."""

    entry: Entry
    shown: list[Shown]

    @property
    def has_error(self) -> bool:
        return bool(self.entry.error) or any(shown.error for shown in self.shown)


@dataclass(frozen=True, slots=True)
class Inspection:
    """What was written: the number of entries, and of those with errors."""

    records: int
    bad: int


def inspect_records(request: Request, output: Path) -> Inspection:
    """Write the page; it appears whole or not at all.

    Raises:
        InputError: the records file or the model cannot be used. What is wrong in a record stands on the page.
    """
    found, front = _model(request)
    documents = open_documents(list(request.documents)) if request.documents else None
    entries = read_entries(
        request.records,
        documents=documents,
        query_instruction=request.query_instruction,
        hard_negatives=request.hard_negatives,
        id=request.id,
        limit=request.limit,
    )
    sections = list(_sections(request, entries, front))
    write_text(output, [_render(request, found, entries, sections)])
    return Inspection(len(sections), sum(section.has_error for section in sections))


def _model(request: Request) -> tuple[ModelSource, Frontend]:
    plugin = request.plugin or plugin_of(request.model)
    hooks = plugins.load(plugin)
    found = find_model(
        request.model, hooks.families(), plugin, request.base, with_weights=False, options=request.options
    )
    return found, load_frontend(hooks, found, request.options)


def _sections(request: Request, entries: Entries, front: Frontend) -> Iterator[Section]:
    root = request.image_root or (request.records if request.records.is_dir() else request.records.parent)
    images = ImageOpener(root, entries.documents)
    style: Literal["chat", "plain"] = "chat" if entries.kind == "conversations" else "plain"
    preparer = Preparer(front.slicer, front.preprocessor, front.template, images, style)
    for entry in tqdm(entries.entries, "records", leave=False, disable=None):
        shown = [_shown(role, member, preparer, front, _length(request, role)) for role, member in entry.members]
        yield Section(entry, shown)


def _length(request: Request, role: Role) -> int:
    if role == "conversation":
        return request.max_length
    return request.query_max_length if role == "query" else request.document_max_length


def _shown(role: Role, member: Record | InputError, preparer: Preparer, front: Frontend, max_length: int) -> Shown:
    if isinstance(member, InputError):
        return Shown(role, "", error=str(member))
    try:
        return Shown(role, member.id, make_sample(member, preparer, front.tokenizer, max_length))
    except InputError as error:
        return Shown(role, member.id, error=str(error))


def _render(request: Request, found: ModelSource, entries: Entries, sections: list[Section]) -> str:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    source = files("polylens.inspection").joinpath("page.html.j2").read_text(encoding="utf-8")
    return environment.from_string(source).render(
        records=request.records, model=request.model, family=found.family, kind=entries.kind, sections=sections
    )
