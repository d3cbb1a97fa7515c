"""The records of files that are to be answered, and those that cannot be."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Literal, Protocol

from polylens.data.conversations import conversation_files, scan_conversations
from polylens.data.images import ImageOpener
from polylens.data.records import BadRecordsKept, Quarantine
from polylens.data.store import open_documents
from polylens.errors import InputError
from polylens.generation.chunks import Chunk
from polylens.generation.formats.items import BadItems, Item, QuestionFormat, read_items
from polylens.generation.formats.registry import question_format
from polylens.generation.predictor import Predictor, all_good
from polylens.generation.prompts import QUESTION, Question, benchmark_question, by_length, question


class Bad(Protocol):
    """Records that cannot be used, kept in mind.

    Attributes:
        errors: by the place of the record.
    """

    errors: dict[str, InputError]

    def write(self, files: Sequence[Path], path: Path) -> None:
        """Set them aside in a file."""
        ...


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked of files.

    Attributes:
        image_root: where relative picture paths start; by default where the format has its pictures.
        documents: document stores that pictures of conversations lie in.
        format: of the files; by default the fields of the first one tell.
        prompt: what is asked in place of a benchmark's question, which ``{question}`` stands for.
        limit: records at most, the first ones.
        chunk: the part of them that this process answers.
        on_bad_record: whether a record that cannot be used is an error, or left out.

    Raises:
        InputError: a prompt without the question, or a limit below 1.
    """

    image_root: Path | None = None
    documents: Sequence[Path] = ()
    format: str | None = None
    prompt: str = QUESTION
    limit: int | None = None
    chunk: Chunk = field(default_factory=Chunk)
    on_bad_record: Literal["error", "quarantine"] = "error"

    def __post_init__(self) -> None:
        if QUESTION not in self.prompt:
            raise InputError(f"the prompt {self.prompt!r} does not say where the question stands: write {QUESTION}")
        if self.limit is not None and self.limit < 1:
            raise InputError(f"limit is {self.limit}, it must be at least 1")


@dataclass(slots=True)
class QuestionFiles:
    """Questions of files.

    Attributes:
        questions: those that can be asked, as far as it is known.
        images: opens their pictures.
        image_root: folder that their paths start from.
        files: that they come from.
        bad: the other records; ``None`` if one of them is an error.
        answers: name of the format in which answers to them are written.
    """

    questions: list[Question]
    images: ImageOpener
    image_root: Path
    files: list[Path]
    bad: Bad | None
    answers: str

    def plan(self, predictor: Predictor) -> list[list[int]]:
        """The batches of the questions, without those whose pictures cannot be read or that do not fit.

        Raises:
            InputError: there is such a question, and it is not to be left out; or none is left.
        """
        records = [one.record for one in self.questions]
        measured = predictor.measure(records, decode=self.bad is not None, progress=True)
        if self.bad is not None:
            pairs = list(zip(self.questions, measured, strict=True))
            self.bad.errors |= {one.record.where: m for one, m in pairs if isinstance(m, InputError)}
            self.questions = [one for one, m in pairs if not isinstance(m, InputError)]
            measured = [m for m in measured if not isinstance(m, InputError)]
        if not self.questions:
            raise InputError(f"no record of {', '.join(map(str, self.files))} can be answered{self._why()}")
        return by_length(all_good(measured), predictor.batch_size)

    def _why(self) -> str:
        return f"; the first: {next(iter(self.bad.errors.values()))}" if self.bad and self.bad.errors else ""

    def set_aside(self, path: Path) -> None:
        """Write the bad records down, for one process; an earlier file of this name goes."""
        if self.bad is None:
            return
        if self.bad.errors:
            self.bad.write(self.files, path)
        else:
            path.unlink(missing_ok=True)


def read_questions(paths: Sequence[Path], asked: Asked) -> QuestionFiles:
    """Read files of questions; pictures are not opened.

    What is wrong in the files counts with the first chunk.

    Raises:
        InputError: a bad record, if it is not to be left out; files of an unknown format; an empty chunk.
    """
    format = question_format(asked.format, paths)
    found = _conversations(paths, asked) if format is None else _benchmark(paths, format, asked)
    if asked.chunk.index and found.bad is not None:
        found.bad.errors.clear()
    found.questions = asked.chunk.of(found.questions)
    return found


def _conversations(paths: Sequence[Path], asked: Asked) -> QuestionFiles:
    if asked.prompt != QUESTION:
        raise InputError("a prompt is put around the questions of benchmarks, and these are conversations")
    store = open_documents(asked.documents) if asked.documents else None
    bad = BadRecordsKept() if asked.on_bad_record == "quarantine" else None
    told = Quarantine("error") if bad is None else bad
    records, root = scan_conversations(paths, told, image_root=asked.image_root, documents=store, answered=False)
    questions = [question(record) for record in islice(records, asked.limit)]
    return QuestionFiles(questions, ImageOpener(root, store), root, conversation_files(paths), bad, "polylens")


def _benchmark(paths: Sequence[Path], format: QuestionFormat, asked: Asked) -> QuestionFiles:
    if asked.documents:
        raise InputError(f"document stores belong to conversations; the pictures of {format.name} are files")
    bad = BadItems() if asked.on_bad_record == "quarantine" else None
    items = list(read_items(paths, format, bad, asked.limit))
    folders = {path: format.picture_folder(path) for path in paths}
    root = _image_root(list(folders.values())) if asked.image_root is None else asked.image_root
    inside = {
        path: "" if root in (folder, asked.image_root) else _below(folder, root) for path, folder in folders.items()
    }
    questions = _questions(items, asked.prompt, inside, bad)
    return QuestionFiles(questions, ImageOpener(root), root, list(paths), bad, format.answers)


def _questions(
    items: Sequence[tuple[Path, Item]], prompt: str, inside: Mapping[Path, str], bad: BadItems | None
) -> list[Question]:
    """Items as questions; ``inside`` is where the pictures of each file lie in the image root."""
    questions = []
    for path, item in items:
        try:
            questions.append(benchmark_question(item, prompt, inside[path]))
        except InputError as error:
            if bad is None:
                raise
            bad.add(item, error)
        else:
            if bad is not None:
                bad.know(item)
    return questions


def _below(folder: Path, root: Path) -> str:
    return os.path.relpath(folder.resolve(), root.resolve())


def _image_root(folders: Sequence[Path]) -> Path:
    """The folder that all lie in.

    Raises:
        InputError: one of them does not exist.
    """
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"the folder of pictures {folder} does not exist; say where they lie with --image-root")
    if len(set(folders)) == 1:
        return folders[0]
    return Path(os.path.commonpath([folder.resolve() for folder in folders]))
