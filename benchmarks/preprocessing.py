"""Times how pictures become squares of 384 pixels, beside the image processor of transformers.

    python benchmarks/preprocessing.py [--images DIR] [--pictures 64] [--size 640x360] [--rounds 5] [--workers 1 2]

From the bytes of a JPEG file to normalised float32 values: decode, pad to a square in the mean colour, resize to
384 x 384 (bicubic), normalise.

- polylens: ``decode_image``, ``SquarePreprocessor`` of the plugin ``tinyllava``, ``normalise``;
- uint8: the same without ``normalise``, as training does it: workers send bytes, the device normalises them;
- transformers: ``PIL.Image.open``, the original's ``expand2square``, ``SiglipImageProcessor`` (its Pillow backend).

Processor time of one thread, the best round of each picture, turn by turn. The program ends with an error unless
polylens and transformers agree to 1e-6. Then so many data workers as ``--workers`` says prepare the pictures, and a
table says how many of them a GPU needs that takes so many pictures a second.
"""

from __future__ import annotations

import argparse
import io
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from measure import machine
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from transformers import SiglipImageProcessorPil

from polylens.data.images import decode_image
from polylens.modeling.preprocessing import normalise
from polylens.modeling.processing import HALF, Processing
from polylens.modeling.square_pixels import SquarePreprocessor
from polylens.modeling.squares import SquareSlicer

PADDED = Processing(384, None, HALF, HALF, pad=True)
PREPROCESSOR = SquarePreprocessor(PADDED)
SLICER = SquareSlicer(PADDED, 14, class_token=False)
PEER = SiglipImageProcessorPil(size={"height": 384, "width": 384}, resample=Image.Resampling.BICUBIC)
RATES = (25, 50, 100, 200, 400, 800, 1600)
"""Pictures that GPUs take in a second."""


def main() -> None:
    args = _arguments()
    torch.set_num_threads(1)
    pictures = _pictures(args)
    _check_same(pictures)
    found = _best(pictures, args.rounds)
    print(f"{machine()}; {len(pictures)} pictures, {_sizes(pictures)}, {_kib(pictures):.0f} KiB each")
    for name, seconds in found.items():
        print(f"  {name:<13}{seconds * 1e3:6.2f} ms, {1 / seconds:6.0f} pictures a second of one core")
    for name in ("polylens", "uint8"):
        print(f"  {name} / transformers: {found['transformers'] / found[name]:.2f} times the pictures")
    rates = {workers: _with_workers(pictures, workers, args.rounds) for workers in args.workers}
    for workers, rate in rates.items():
        print(f"  {workers} data workers: {rate:.0f} pictures a second by the clock")
    _table(1 / found["uint8"])


def polylens(data: bytes) -> torch.Tensor:
    return normalise(uint8(data), PREPROCESSOR.mean, PREPROCESSOR.std, torch.float32)


def uint8(data: bytes) -> torch.Tensor:
    image = decode_image(data, "picture")
    return PREPROCESSOR.pixels(image, SLICER.slice(image.size))[0]


def transformers(data: bytes) -> torch.Tensor:
    image = Image.open(io.BytesIO(data)).convert("RGB")
    return PEER(_expand2square(image, tuple(int(mean * 255) for mean in HALF)), return_tensors="pt").pixel_values[0]


def _expand2square(image: Image.Image, background: tuple[int, ...]) -> Image.Image:
    side = max(image.size)
    square = Image.new("RGB", (side, side), background)  # type: ignore[arg-type]
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


PROGRAMS: dict[str, Callable[[bytes], torch.Tensor]] = {
    "polylens": polylens,
    "uint8": uint8,
    "transformers": transformers,
}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="folder of pictures (default: noise)")
    parser.add_argument("--pictures", type=int, default=64)
    parser.add_argument("--size", default="640x360", help="of the noise")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, nargs="+", default=sorted({1, os.cpu_count() or 1}))
    return parser.parse_args()


def _pictures(args: argparse.Namespace) -> list[bytes]:
    if args.images:
        return [path.read_bytes() for path in sorted(args.images.rglob("*.jpg"))[: args.pictures]]
    width, height = map(int, args.size.split("x"))
    return [_noise(number, width, height) for number in range(args.pictures)]


def _noise(seed: int, width: int, height: int) -> bytes:
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def _check_same(pictures: Sequence[bytes]) -> None:
    for data in pictures:
        if not torch.allclose(polylens(data), transformers(data), rtol=0, atol=1e-6):
            sys.exit("polylens and transformers made different values")


def _best(pictures: Sequence[bytes], rounds: int) -> dict[str, float]:
    """Seconds of each program for a picture: the least of every picture, averaged."""
    found = {name: np.full(len(pictures), np.inf) for name in PROGRAMS}
    for _ in range(rounds):
        for number, data in enumerate(pictures):
            for name, program in PROGRAMS.items():
                start = time.process_time()
                program(data)
                found[name][number] = min(found[name][number], time.process_time() - start)
    return {name: float(seconds.mean()) for name, seconds in found.items()}


class _Files(Dataset[torch.Tensor]):
    """Files again and again, read from the disk, or from its cache, as in training."""

    def __init__(self, paths: Sequence[Path], length: int) -> None:
        self._paths, self._length = paths, length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> torch.Tensor:
        return uint8(self._paths[index % len(self._paths)].read_bytes())


def _with_workers(pictures: Sequence[bytes], workers: int, rounds: int) -> float:
    """Pictures a second once the workers are at work; the best round."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / str(number) for number in range(len(pictures))]
        for path, data in zip(paths, pictures, strict=True):
            path.write_bytes(data)
        loader = DataLoader(_Files(paths, 1024), 8, num_workers=workers, persistent_workers=True, prefetch_factor=4)
        return max(_rate(loader) for _ in range(max(2, rounds)))


def _rate(loader: DataLoader[torch.Tensor]) -> float:
    batches = iter(loader)
    count, start = -len(next(batches)), time.perf_counter()
    for batch in batches:
        count += len(batch)
    return (count + 8) / (time.perf_counter() - start)


def _table(rate: float) -> None:
    print(f"workers for a GPU, each with a core of its own and {rate:.0f} pictures a second:")
    print("  " + " | ".join(f"{wanted} / s" for wanted in RATES))
    print("  " + " | ".join(f"{math.ceil(wanted / rate):>{len(f'{wanted} / s')}}" for wanted in RATES))


def _sizes(pictures: Sequence[bytes]) -> str:
    sizes = {Image.open(io.BytesIO(data)).size for data in pictures}
    return " ".join(f"{width} x {height}" for width, height in sorted(sizes)[:3])


def _kib(pictures: Sequence[bytes]) -> float:
    return sum(map(len, pictures)) / len(pictures) / 1024


if __name__ == "__main__":
    main()
