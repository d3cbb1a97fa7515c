"""Times the rendering of PDF files into a store beside a bare PyMuPDF loop that writes a JPEG file for each page.

    python benchmarks/render.py [FOLDER] [--rounds 5] [--dpi 144] [--quality 90]

Each program is a command of its own, in turn with the others: the loop, and ``polylens data render`` with one worker
and with two. The start (importing, starting workers) is measured on two PDFs of one page each and taken off, so that
the figures are those of the pages. The best round of each counts. The program ends with an error unless all three
make the same bytes of every page. ``FOLDER`` is searched for ``*.pdf`` files, all readable; by default it is
``examples/manuals``.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from commands import CommandCost, compiled, cost, least

MANUALS = Path(__file__).parents[1] / "examples" / "manuals"


def main() -> None:
    args = _arguments()
    if args.bare:
        bare_loop(args.folder, args.bare, args.dpi, args.quality)
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


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=MANUALS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dpi", type=float, default=144)
    parser.add_argument("--quality", type=int, default=90)
    parser.add_argument("--bare", type=Path, metavar="OUTPUT", help="only run the bare loop, once, into a new folder")
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
    }


def _check_same(root: Path, programs: dict[str, list[str]]) -> int:
    """The number of pages, the same in every byte from every program."""
    from polylens.data.store import open_documents

    pages = {path.name: path.read_bytes() for path in (root / "loop").iterdir()}
    for name in set(programs) - {"loop"}:
        store = open_documents([root / name])
        if {id: store.read(id).image for id in store.ids()} != pages:
            sys.exit(f"the pages of {name!r} are not those of the loop")
    return len(pages)


def _per_page(
    best: dict[tuple[str, Path], CommandCost], name: str, start: Path, folder: Path, pages: int
) -> CommandCost:
    """Costs of a page, the start taken off."""
    whole, begun = best[name, folder], best[name, start]
    return CommandCost(*((many - two) / (pages - 2) for many, two in zip(whole, begun, strict=True)))


def _report(found: dict[str, CommandCost], pages: int) -> None:
    print(f"{pages} pages, the same bytes from all three")
    for name, each in found.items():
        print(f"{name:<5} {each.seconds * 1e3:6.2f} ms processor, {1 / each.wall:6.1f} pages a second by the clock")
    loop, one, two = (found[name] for name in ("loop", "one", "two"))
    print(
        f"one / loop: {loop.wall / one.wall:.3f} of its pages a second, {one.seconds / loop.seconds:.3f} of its work"
    )
    print(f"two / one: {one.wall / two.wall:.2f} of its pages a second, {two.seconds / one.seconds:.3f} of its work")


if __name__ == "__main__":
    main()
