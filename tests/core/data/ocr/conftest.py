"""Pictures with text, PDF files in every position, and a program that stands for Tesseract."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from PIL import Image, ImageDraw, ImageFont

ROWS = (
    "level page_num block_num par_num line_num word_num left top width height conf text",
    "1 1 0 0 0 0 0 0 40 30 -1 ",
    "4 1 1 1 1 0 8 10 WIDTH 10 -1 ",
    "5 1 1 1 1 1 8 10 9 10 90 PUMP",
    '5 1 1 1 1 2 20 10 9 10 30 "7',
    "4 1 1 1 2 0 8 24 5 4 -1 ",
    "5 1 1 1 2 1 8 24 5 4 20 unsure",
    "4 1 1 2 1 0 4 30 9 4 -1 ",
    "5 1 1 2 1 1 4 30 4 4 99.5 泵",
    "5 1 1 2 1 2 9 30 4 4 99.5 站",
    "4 1 2 1 1 0 0 0 9 9 -1 ",
    "5 1 2 1 1 1 0 0 9 9 95 ",
)
TESSERACT = r"""#!/bin/sh
case "$*" in
*--version*) echo "tesseract 5.0.0-fake"; exit ;;
*--list-langs*) printf 'List of available languages (2):\neng\nchi_sim\n'; exit ;;
esac
read kind
read width height
[ "$kind" = P6 ] || exit 3
cat > /dev/null
[ "$width" = 29 ] && echo "Error in pixCreate" >&2 && exit 1
sed "s/WIDTH/$((width - 16))/; s/ /	/g" <<'END'
{rows}
END
"""
"""Says the same of every picture, and fails on those of 13 pixels in width."""


@pytest.fixture
def fake_tesseract(tmp_path: Path, monkeypatch) -> Path:
    """A program ``tesseract`` that stands before all others."""
    program = tmp_path / "bin" / "tesseract"
    program.parent.mkdir()
    program.write_text(TESSERACT.replace("{rows}", "\n".join(ROWS)))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    return program


@pytest.fixture(scope="session")
def written():
    """``written(size, [(corner, text), ...], height)``: a picture with text, and the box of the ink of each."""

    def make(size, texts, height=28, colours=("white", "black")):
        image = Image.new("RGB", size, colours[0])
        font, draw, boxes = ImageFont.load_default(height), ImageDraw.Draw(image), []
        for corner, text in texts:
            draw.text(corner, text, colours[1], font=font)
            boxes.append(draw.textbbox(corner, text, font=font))
        return image, boxes

    return make


@pytest.fixture(scope="session")
def lines_of_file():
    def read(path: Path) -> list[dict]:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]

    return read
