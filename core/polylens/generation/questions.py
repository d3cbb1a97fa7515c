"""The records of files that are to be answered, and those that cannot be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from polylens.data.conversations import conversation_files, scan_conversations
from polylens.data.images import ImageOpener
from polylens.data.records import BadRecordsKept, Quarantine
from polylens.data.store import open_documents
from polylens.errors import InputError
from polylens.generation.predictor import Predictor, all_good
from polylens.generation.prompts import Question, by_length, question


@dataclass(slots=True)
class QuestionFiles:
    """Questions of conversations files.

    Attributes:
        questions: those that can be asked, as far as it is known.
        images: opens their pictures.
        files: that they come from.
        bad: the other records; ``None`` if one of them is an error.
    """

    questions: list[Question]
    images: ImageOpener
    files: list[Path]
    bad: BadRecordsKept | None

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


def read_questions(
    paths: Sequence[Path],
    *,
    image_root: Path | None = None,
    documents: Sequence[Path] = (),
    on_bad_record: Literal["error", "quarantine"] = "error",
) -> QuestionFiles:
    """Read conversations files; pictures are not opened.

    Args:
        image_root: where relative picture paths start; by default the folder of each file.
        documents: document stores that pictures lie in.

    Raises:
        InputError: a bad record, if it is not to be left out.
    """
    store = open_documents(documents) if documents else None
    bad = BadRecordsKept() if on_bad_record == "quarantine" else None
    told = Quarantine("error") if bad is None else bad
    records, root = scan_conversations(paths, told, image_root=image_root, documents=store, answered=False)
    questions = [question(record) for record in records]
    return QuestionFiles(questions, ImageOpener(root, store), conversation_files(paths), bad)
