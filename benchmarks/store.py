"""Times reads of pages in random order from the document store beside plain files, and prints the ratios.

    python benchmarks/store.py [--sizes 16 64 256 1024] [--megabytes 128] [--rounds 7] [--passes 20]

For each size (KiB of a page, on average) the same random bytes lie in a store and in one file a page, all of it in the
page cache. Pages are read in the same random order:

- first: by a store that has just been opened, which reads its index and verifies the checksum of every page;
- checked: the same, beside files of which the CRC-32 is computed as they are read;
- again: by one that has done so;
- workers: by two workers of a ``DataLoader``, which hand back lengths only, ``--passes`` times over.

Processor time of all processes, the best round of each, turn by turn; the start of the workers is measured apart and
taken off. The program ends with an error if a page differs.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from torch.utils.data import DataLoader, Dataset
from zlib_ng import zlib_ng

from polylens.data.store import Document, DocumentStore, DocumentWriter

Read = Callable[[str], bytes | None]


def main() -> None:
    args = _arguments()
    print(f"{'page':>9} {'reads':>8} {'files':>12} {'store':>12}   files / store")
    for size in args.sizes:
        with tempfile.TemporaryDirectory() as folder:
            _compare(Path(folder), size * 1024, args)


class Pages(Dataset[int]):
    """The number of bytes of each page, in the order of ``ids``."""

    def __init__(self, read: Read, ids: Sequence[str]) -> None:
        self._read, self._ids = read, ids

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, index: int) -> int:
        return len(self._read(self._ids[index]) or b"")


class Files:
    """One file a page."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, id: str) -> bytes:
        return (self._folder / id).read_bytes()


class Stored:
    """The pages of a document store."""

    def __init__(self, folder: Path) -> None:
        self._store = DocumentStore([folder])

    def read(self, id: str) -> bytes | None:
        return self._store.read(id).image


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[16, 64, 256, 1024], metavar="KIB")
    parser.add_argument("--megabytes", type=int, default=128, help="of pages, for each size")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--passes", type=int, default=20, help="of the workers")
    return parser.parse_args()


def _compare(folder: Path, size: int, args: argparse.Namespace) -> None:
    ids = _write(folder, size, args.megabytes * 2**20 // size)
    files, stored = Files(folder / "files").read, Stored(folder / "store").read
    if not all(files(id) == stored(id) for id in ids):  # and all of it is cached now
        raise SystemExit("a page of the store differs from its file")
    programs: dict[str, tuple[Callable[[], float], Callable[[], float]]] = {
        "first": (lambda: _here(files, ids), lambda: _here(Stored(folder / "store").read, ids)),
        "checked": (lambda: _here(_checked(files), ids), lambda: _here(Stored(folder / "store").read, ids)),
        "again": (lambda: _here(files, ids), lambda: _here(stored, ids)),
        "workers": (lambda: _workers(files, ids, args.passes), lambda: _workers(stored, ids, args.passes)),
    }
    for name, pair in programs.items():
        rounds = [[program() for program in pair] for _ in range(args.rounds)]
        _report(size, name, *map(min, *rounds))


def _write(folder: Path, size: int, count: int) -> list[str]:
    """The ids of the pages in the order in which they will be read."""
    generator = np.random.default_rng(0)
    ids = [f"manual.pdf#{number}" for number in range(count)]
    (folder / "files").mkdir()
    with DocumentWriter(folder / "store") as writer:
        for id in ids:
            page = generator.bytes(int(size * generator.uniform(0.5, 1.5)))
            (folder / "files" / id).write_bytes(page)
            writer.write(Document(id, page))
    return [ids[place] for place in generator.permutation(count)]


def _here(read: Read, ids: Sequence[str]) -> float:
    """Processor seconds of a page."""
    before = _processor_time()
    for id in ids:
        read(id)
    return (_processor_time() - before) / len(ids)


def _checked(read: Read) -> Read:
    def checked(id: str) -> bytes | None:
        data = read(id)
        zlib_ng.crc32(data or b"")
        return data

    return checked


def _workers(read: Read, ids: Sequence[str], passes: int) -> float:
    """Processor seconds of a page, in two workers."""
    many = _load(Pages(read, [*ids] * (passes + 1)))
    return (many - _load(Pages(read, ids))) / (passes * len(ids))


def _load(pages: Pages) -> float:
    before = _processor_time()
    for _ in DataLoader(pages, batch_size=-(-len(pages) // 2), num_workers=2):
        pass
    return _processor_time() - before


def _processor_time() -> float:
    """Of this process, and of workers that have ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def _report(size: int, name: str, files: float, store: float) -> None:
    print(
        f"{size // 1024:5} KiB {name:>8} {files * 1e6:9.1f} us {store * 1e6:9.1f} us   {files / store:.2f}", flush=True
    )


if __name__ == "__main__":
    main()
