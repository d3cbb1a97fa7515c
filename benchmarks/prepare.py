"""Times the preparation of page pictures beside a plain Pillow loop and beside the least that Pillow needs.

    python benchmarks/prepare.py [FOLDER] [--pages 12] [--rounds 20] [--dpi 144]

Pages of the PDF files below ``FOLDER`` (by default ``examples/manuals``) become JPEG bytes, once as they are and once
in gray. From bytes to the uint8 crops of MiniCPM-V 2.0, an overview and up to nine slices:

- polylens: ``decode_image`` and ``BicubicPreprocessor``;
- loop: as the published code does it: decode, ``convert``, resize, ``crop`` of every slice, and a tensor of each;
- least: decode and resize in colour, nothing else.

Processor time of one thread, the best round of each page, turn by turn. The program ends with an error unless the
crops of polylens and of the loop are equal in every pixel.
"""

from __future__ import annotations

import argparse
import io
import sys
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import pymupdf
import torch
from PIL import Image

from polylens.contracts import SlicedImage
from polylens.data.images import decode_image
from polylens.modeling.preprocessing import BicubicPreprocessor
from polylens_minicpmv.slicing import MiniCPMVSlicer

MANUALS = Path(__file__).parents[1] / "examples" / "manuals"
PREPROCESSOR = BicubicPreprocessor()


def main() -> None:
    args = _arguments()
    torch.set_num_threads(1)
    slicer = MiniCPMVSlicer(scale_resolution=448, patch_size=14, max_slice_nums=9, tokens=64)
    images = _pages(args.folder, args.pages, args.dpi)
    for name, mode in (("colour", "RGB"), ("gray", "L")):
        pages = [(_jpeg(image.convert(mode).convert("RGB")), slicer.slice(image.size)) for image in images]
        _check_same(pages)
        _report(name, len(pages), _best(pages, args.rounds))


def polylens(data: bytes, sliced: SlicedImage) -> list[torch.Tensor]:
    return PREPROCESSOR.pixels(decode_image(data, "page"), sliced)


def loop(data: bytes, sliced: SlicedImage) -> list[torch.Tensor]:
    image = Image.open(io.BytesIO(data)).convert("RGB")
    scaled = _resized(image, sliced)
    windows = [scaled[crop.scaled].crop(crop.window) for crop in sliced.crops]
    return [torch.from_numpy(np.array(window)).permute(2, 0, 1).contiguous() for window in windows]


def least(data: bytes, sliced: SlicedImage) -> object:
    return _resized(Image.open(io.BytesIO(data)), sliced)


def _resized(image: Image.Image, sliced: SlicedImage) -> dict[tuple[int, int], Image.Image]:
    sizes = {crop.scaled for crop in sliced.crops}
    return {size: image.resize(size, Image.Resampling.BICUBIC) for size in sizes}


PROGRAMS: dict[str, Callable[[bytes, SlicedImage], object]] = {"polylens": polylens, "loop": loop, "least": least}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=MANUALS)
    parser.add_argument("--pages", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--dpi", type=float, default=144)
    return parser.parse_args()


def _pages(folder: Path, count: int, dpi: float) -> list[Image.Image]:
    """The first pages of every file in turn, as many as are wanted."""
    files = [pymupdf.open(path) for path in sorted(folder.rglob("*.pdf"))]
    pages = (file[number] for number in range(max(map(len, files))) for file in files if number < len(file))
    matrix = pymupdf.Matrix(dpi / 72, dpi / 72)
    drawn = (page.get_pixmap(matrix=matrix, alpha=False) for page in islice(pages, count))
    return [Image.frombytes("RGB", (pixels.width, pixels.height), pixels.samples) for pixels in drawn]


def _jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def _check_same(pages: list[tuple[bytes, SlicedImage]]) -> None:
    for page in pages:
        if not all(own.equal(other) for own, other in zip(polylens(*page), loop(*page), strict=True)):
            sys.exit("polylens and the loop made different pixels")


def _best(pages: list[tuple[bytes, SlicedImage]], rounds: int) -> dict[str, float]:
    """Seconds of each program for a page: the least of every page, averaged."""
    found = {name: np.full(len(pages), np.inf) for name in PROGRAMS}
    for _ in range(rounds):
        for number, page in enumerate(pages):
            for name, program in PROGRAMS.items():
                start = time.process_time()
                program(*page)
                found[name][number] = min(found[name][number], time.process_time() - start)
    return {name: float(seconds.mean()) for name, seconds in found.items()}


def _report(name: str, pages: int, found: dict[str, float]) -> None:
    times = ", ".join(f"{program} {seconds * 1e3:.1f} ms" for program, seconds in found.items())
    print(f"{pages} pages in {name}: {times} a page")
    for peer in ("loop", "least"):
        print(f"  polylens / {peer}: {found['polylens'] / found[peer]:.2f}")


if __name__ == "__main__":
    main()
