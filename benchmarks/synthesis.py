"""Counts how many pictures with subtitles a core makes in a second.

    python benchmarks/synthesis.py [--count 2000] [--size 640x360] [--rounds 3] [--font FILE] [--images DIR]

``polylens data synth subtitles`` runs as a command of its own with one worker, for ``--count`` pictures and for one:
the difference is that of the pictures, without the start. The best round counts. The figure is that of processor time,
all processes together, files and labels included. Sentences are Chinese, of 4 to 20 characters that the font has.
Without ``--images`` the backgrounds are 200 JPEG files of noise at 1280 x 720, which are decoded once each; with
``--kept no`` there are as many as pictures, so that each is decoded for one picture.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
from commands import CommandCost, compiled, cost, least
from measure import machine
from PIL import Image

from polylens.data.subtitles.fonts import Face, find_faces

_CHINESE = range(0x4E00, 0x9FA6)


def main() -> None:
    args = _arguments()
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        face = _chinese_font(args.font)
        images = args.images or _noise(root / "images", 200 if args.kept == "yes" else args.count)
        _sentences(root / "sentences.txt", face)
        found: dict[int, CommandCost] = {}
        for _ in range(args.rounds):
            for count in (1, args.count):
                shutil.rmtree(root / "out", ignore_errors=True)
                command = _command(images, root, face, args.size, count)
                found[count] = least(found.get(count), cost(command, compiled(str(root / "compiled"))))
    seconds, wall = ((many - one) / (args.count - 1) for many, one in zip(found[args.count], found[1], strict=True))
    print(f"{machine()}; {face.family}, {args.size}, backgrounds kept: {args.kept}")
    print(
        f"{1 / seconds:.0f} pictures a second of one core ({seconds * 1e3:.2f} ms each); {1 / wall:.0f} by the clock"
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--size", default="640x360")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--font", help="file or family with Chinese characters (default: the first of the system)")
    parser.add_argument("--images", type=Path, help="folder of backgrounds")
    parser.add_argument("--kept", choices=("yes", "no"), default="yes", help="backgrounds fewer than pictures, or not")
    return parser.parse_args()


def _chinese_font(name: str | None) -> Face:
    for face in find_faces([name] if name else []):
        if not face.lacks("今天氣好"):
            return face
    sys.exit("no font has Chinese characters: install fonts-noto-cjk or fonts-wqy-microhei, or give --font")


def _noise(folder: Path, count: int) -> Path:
    folder.mkdir()
    for number in range(count):
        coarse = np.random.default_rng(number).integers(0, 256, (45, 80, 3), dtype=np.uint8)
        picture = Image.fromarray(coarse).resize((1280, 720), Image.Resampling.BICUBIC)
        picture.save(folder / f"{number:05}.jpg", quality=88)
    return folder


def _sentences(path: Path, face: Face) -> None:
    draw = random.Random(0)
    known = [chr(code) for code in _CHINESE if code in face.characters]
    lines = ("".join(draw.choices(known, k=draw.randint(4, 20))) for _ in range(1000))
    path.write_text("\n".join(lines), encoding="utf-8")


def _command(images: Path, root: Path, face: Face, size: str, count: int) -> list[str]:
    given = {"--images": images, "--sentences": root / "sentences.txt", "--output": root / "out", "--count": count}
    options = [f"size=[{size.replace('x', ', ')}]", f"fonts=[{str(face.file)!r}]"]
    command = [str(Path(sys.executable).with_name("polylens")), "data", "synth", "subtitles", "--workers", "1"]
    command += [str(part) for pair in given.items() for part in pair]
    return command + [part for option in options for part in ("--option", option)]


if __name__ == "__main__":
    main()
