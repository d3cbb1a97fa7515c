"""Makes the files of pictures; runs in worker processes."""

from __future__ import annotations

import os
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from polylens.contracts import ImageRef
from polylens.data.images import ImageOpener
from polylens.data.subtitles.drawing import draw_subtitle, encoded, fitted_background
from polylens.data.subtitles.plans import Plan
from polylens.data.subtitles.settings import SubtitleSettings
from polylens.errors import InputError

__all__ = ["Task", "make_pictures", "picture_name"]

_PICTURES_PER_FOLDER = 1000
_KEPT_BYTES = 256 * 2**20
"""Of backgrounds that a process keeps at the size of the pictures."""


@dataclass(frozen=True, slots=True)
class Task:
    """Pictures for one worker.

    Attributes:
        plans: each with file and index of its font.
        images: folder of the backgrounds.
        output: folder of the synthesis.
        go_on: take other backgrounds in place of those that cannot be opened.
    """

    plans: tuple[tuple[Plan, tuple[Path, int]], ...]
    images: Path
    output: Path
    settings: SubtitleSettings
    go_on: bool


def picture_name(number: int, settings: SubtitleSettings) -> str:
    """Path of a picture below the folder of the synthesis."""
    suffix = "jpg" if settings.image_format == "jpeg" else "png"
    return f"images/{number // _PICTURES_PER_FOLDER:04}/{number:07}.{suffix}"


# In a worker: backgrounds at the size of the pictures, those used last at the end.
_kept: OrderedDict[Path, Image.Image] = OrderedDict()


def make_pictures(task: Task) -> dict[str, str]:
    """Make the pictures of a task; gives the backgrounds that cannot be opened, with the reason.

    Raises:
        InputError: a background cannot be opened, or with ``go_on`` none of those that were drawn.
    """
    damaged: dict[str, str] = {}
    for plan, face in task.plans:
        background = _background(task, plan, damaged)
        data = encoded(draw_subtitle(background, plan, face, task.settings), plan, task.settings)
        path = task.output / picture_name(plan.number, task.settings)
        partial = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        partial.write_bytes(data)
        os.replace(partial, path)
    return damaged


def _background(task: Task, plan: Plan, damaged: dict[str, str]) -> Image.Image:
    opener = ImageOpener(task.images)
    for name in plan.backgrounds:
        path = task.images / name
        if path in _kept:
            _kept.move_to_end(path)
            return _kept[path]
        try:
            whole = opener.open(ImageRef("path", name), str(task.images), at_least=task.settings.size)
        except InputError as error:
            if not task.go_on:
                raise
            damaged[name] = str(error)
            continue
        return _keep(path, fitted_background(whole, task.settings))
    raise InputError(f"picture {plan.number}: none of the backgrounds drawn for it can be opened: {damaged}")


def _keep(path: Path, image: Image.Image) -> Image.Image:
    _kept[path] = image
    while len(_kept) > max(1, _KEPT_BYTES // (3 * image.width * image.height)):
        _kept.popitem(last=False)
    return image
