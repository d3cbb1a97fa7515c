"""Paints the backgrounds of this folder: evening skies over hills, and rooms with a lamp.

python examples/subtitles/scenes.py [FOLDER] [--count 8]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

WIDTH, HEIGHT = 640, 360


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=Path(__file__).parent / "backgrounds")
    parser.add_argument("--count", type=int, default=8)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    for number in range(args.count):
        draw = np.random.default_rng(number)
        scene = (landscape if number % 2 == 0 else room)(draw)
        scene.filter(ImageFilter.GaussianBlur(1.5)).save(args.folder / f"scene{number}.jpg", quality=70)


def landscape(draw: np.random.Generator) -> Image.Image:
    """A sky from one colour to another, and three ranges of hills, the nearest the darkest."""
    high, low = draw.integers(20, 160, 3), draw.integers(90, 250, 3)
    part = np.linspace(0, 1, HEIGHT)[:, None, None]
    sky = np.broadcast_to(high + (low - high) * part, (HEIGHT, WIDTH, 3))
    image = Image.fromarray(sky.astype(np.uint8))
    pen, across = ImageDraw.Draw(image), np.arange(WIDTH)
    for layer in range(3):
        top = 200 + 45 * layer
        waves = np.zeros(WIDTH)
        for _ in range(4):
            waves += draw.uniform(5, 18) * np.sin(across / draw.uniform(25, 120) + draw.uniform(0, 6))
        line = [(int(x), int(y)) for x, y in zip(across, top + waves, strict=True)]
        shade = tuple((draw.integers(20, 110, 3) // (1 + layer)).tolist())
        pen.polygon([(0, HEIGHT), *line, (WIDTH, HEIGHT)], fill=shade)
    return image


def room(draw: np.random.Generator) -> Image.Image:
    """A wall in the light of a lamp, and pieces of furniture."""
    x, y = np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT))
    lamp = draw.uniform(100, 540), draw.uniform(60, 150)
    light = 1 / (1 + ((x - lamp[0]) ** 2 + (y - lamp[1]) ** 2) / 9e3)
    wall = draw.integers(30, 90, 3)[None, None] + light[..., None] * np.array([190, 160, 110])
    image = Image.fromarray(np.clip(wall, 0, 255).astype(np.uint8))
    pen = ImageDraw.Draw(image)
    for _ in range(6):
        left, width = int(draw.integers(-40, 600)), int(draw.integers(50, 200))
        shade = tuple(draw.integers(15, 120, 3).tolist())
        pen.rectangle((left, int(draw.integers(170, 290)), left + width, HEIGHT), fill=shade)
    return image


if __name__ == "__main__":
    main()
