"""Times the rendering of PDF files into a store beside a bare PyMuPDF loop that writes a JPEG file for each page.

    python benchmarks/render.py [FOLDER] [--rounds 5] [--dpi 144] [--quality 90]

Each program is a command of its own, in turn with the others: the loop, ``polylens data render`` with one worker and
with two, and for what the machine can give at most two loops at the same time. The start (importing, starting workers)
is measured on two PDFs of one page each and taken off, so that the figures are those of the pages. The best round of
each counts. The program ends with an error unless the loop and both renderings make the same bytes of every page.
``FOLDER`` is searched for ``*.pdf`` files, all readable; by default it is ``examples/manuals``.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from commands import CommandCost, compiled, cost, least

TWICE = "loops at once"
MANUALS = Path(__file__).parents[1] / "examples" / "manuals"


def main() -> None:
    args = _arguments()
    if args.bare:
        bare_loop(args.folder, args.bare, args.dpi, args.quality)
        return
    if args.bare_twice:
        _two_loops(args)
        return
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        _one_page_pdfs(args.folder, root / "start")
        programs = _programs(args, root)
        best: dict[tuple[str, Path], CommandCost] = {}
        for _ in range(args.rounds):
            for folder in (root / "start", args.folder):
                for name, command in programs.items():
                    shutil.rmtree(root / name, ignore_errors=True)
                    found = cost([*command, str(folder)], compiled(str(root / "compiled")))
                    best[name, folder] = least(best.get((name, folder)), found)
        pages = _check_same(root, programs)
        _report({name: _per_page(best, name, root / "start", args.folder, pages) for name in programs}, pages)


def bare_loop(folder: Path, output: Path, dpi: float, quality: int) -> None:
    """What a short script would do."""
    import pymupdf
    from PIL import Image

    output.mkdir()
    for path in sorted(folder.glob("*.pdf")):
        pdf = pymupdf.open(path)
        for number in range(len(pdf)):
            pixels = pdf[number].get_pixmap(matrix=pymupdf.Matrix(dpi / 72, dpi / 72), alpha=False)
            image = Image.frombytes("RGB", (pixels.width, pixels.height), pixels.samples_mv)
            image.save(output / f"{path.name}#{number + 1}", "JPEG", quality=quality)


def _two_loops(args: argparse.Namespace) -> None:
    """The whole work twice, in two processes."""
    args.bare_twice.mkdir()
    settings = ["--dpi", str(args.dpi), "--quality", str(args.quality), str(args.folder)]
    outputs = (args.bare_twice / "a", args.bare_twice / "b")
    loops = [subprocess.Popen([sys.executable, __file__, "--bare", str(output), *settings]) for output in outputs]
    sys.exit(max(loop.wait() for loop in loops))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=MANUALS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dpi", type=float, default=144)
    parser.add_argument("--quality", type=int, default=90)
    parser.add_argument("--bare", type=Path, metavar="OUTPUT", help="only run the bare loop, once, into a new folder")
    parser.add_argument("--bare-twice", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def _one_page_pdfs(source: Path, folder: Path) -> None:
    import pymupdf

    folder.mkdir()
    first = pymupdf.open(min(source.glob("*.pdf")))
    first.select([0])
    for name in ("a.pdf", "b.pdf"):
        first.save(folder / name)


def _programs(args: argparse.Namespace, root: Path) -> dict[str, list[str]]:
    settings = ["--dpi", str(args.dpi), "--quality", str(args.quality)]
    render = [str(Path(sys.executable).with_name("polylens")), "data", "render", *settings]
    return {
        "loop": [sys.executable, __file__, "--bare", str(root / "loop"), *settings],
        "one": [*render, "--output", str(root / "one"), "--workers", "1"],
        "two": [*render, "--output", str(root / "two"), "--workers", "2"],
        TWICE: [sys.executable, __file__, "--bare-twice", str(root / TWICE), *settings],
    }


def _check_same(root: Path, programs: dict[str, list[str]]) -> int:
    """The number of pages, the same in every byte from every program."""
    from polylens.data.store import open_documents

    pages = {path.name: path.read_bytes() for path in (root / "loop").iterdir()}
    for name in set(programs) - {"loop", TWICE}:
        store = open_documents([root / name])
        if {id: store.read(id).image for id in store.ids()} != pages:
            sys.exit(f"the pages of {name!r} are not those of the loop")
    return len(pages)


def _per_page(
    best: dict[tuple[str, Path], CommandCost], name: str, start: Path, folder: Path, pages: int
) -> CommandCost:
    """Costs of a page, the start taken off."""
    whole, begun = best[name, folder], best[name, start]
    made = (pages - 2) * (2 if name == TWICE else 1)
    return CommandCost(*((many - two) / made for many, two in zip(whole, begun, strict=True)))


def _report(found: dict[str, CommandCost], pages: int) -> None:
    print(f"{pages} pages, the same bytes from all three")
    for name, each in found.items():
        print(f"{name:<13} {each.seconds * 1e3:6.2f} ms processor, {1 / each.wall:6.1f} pages a second by the clock")
    loop, one, two, twice = (found[name] for name in ("loop", "one", "two", TWICE))
    print(
        f"one / loop: {loop.wall / one.wall:.3f} of its pages a second, {one.seconds / loop.seconds:.3f} of its work"
    )
    print(f"two / one: {one.wall / two.wall:.2f} of its pages a second, {two.seconds / one.seconds:.3f} of its work")
    print(
        f"two loops at once / loop: {loop.wall / twice.wall:.2f} of its pages a second, which is what the cores give"
    )


if __name__ == "__main__":
    main()
