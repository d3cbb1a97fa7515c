"""The formats of questions by name, and which one a file is of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from polylens.errors import InputError, closest
from polylens.generation.formats.docvqa import DOCVQA
from polylens.generation.formats.entries import Peek
from polylens.generation.formats.estvqa import ESTVQA
from polylens.generation.formats.funsd import FUNSD
from polylens.generation.formats.iam import IAM
from polylens.generation.formats.items import QuestionFormat
from polylens.generation.formats.labels import HME, OCR, RECTS
from polylens.generation.formats.llava import LLAVA
from polylens.generation.formats.ocrbench import OCRBENCH
from polylens.generation.formats.ocrvqa import OCRVQA
from polylens.generation.formats.poie import POIE
from polylens.generation.formats.sroie import SROIE
from polylens.generation.formats.stvqa import STVQA
from polylens.generation.formats.textvqa import TEXTVQA

CONVERSATIONS = "conversations"
"""The format of training; ``polylens.data.conversations`` reads it."""

QUESTION_FORMATS = {
    format.name: format
    for format in (
        *(LLAVA, TEXTVQA, DOCVQA, OCRVQA, STVQA, ESTVQA, SROIE, FUNSD, POIE),
        *(HME, IAM, RECTS, OCR, OCRBENCH),
    )
}


def question_format(name: str | None, paths: Sequence[Path]) -> QuestionFormat | None:
    """The format of files; ``None`` for conversations.

    Args:
        name: what the user says it is, in any case; by default the fields of the first file tell.

    Raises:
        InputError: an unknown name, or a file that fits no format or several.
    """
    name = _recognised(paths[0]) if name is None else name
    names = (CONVERSATIONS, *QUESTION_FORMATS)
    known = next((one for one in names if one.lower() == name.lower()), None)
    if known is None:
        raise InputError(f"no format {name!r}{closest(name, names)}; there are: {', '.join(names)}")
    return QUESTION_FORMATS.get(known)


def _recognised(path: Path) -> str:
    peek = Peek(path)
    if "conversations" in peek.record or peek.holds("*.json") or peek.holds("*.jsonl"):
        return CONVERSATIONS
    fitting = [format.name for format in QUESTION_FORMATS.values() if format.fits(peek)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise InputError(f"{path} looks like {' and like '.join(fitting)}: say --format {fitting[0]}, or another")
    raise InputError(
        f"{path}: its beginning has the fields of no format that is known, so say --format; the formats are "
        f"{', '.join((CONVERSATIONS, *QUESTION_FORMATS))}"
    )
