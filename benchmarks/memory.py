"""Memory of training at a growing batch size and a fixed micro-batch: it should stay the same.

    python benchmarks/memory.py --batches 256 4096

The tiny MiniCPM-V is trained on generated pages of ten slices, as `polylens train` would, with data workers. Each
batch size has a process of its own, which does one step. Meanwhile this program reads from the kernel, twice a second,
the resident memory of the main process and of its workers. Memory that processes share counts in parts (PSS), so that
the sum is what the machine gives. The program ends with an error if one of these peaks, without the vectors
themselves, grows by more than 5 %. A step of 4096 pages takes about seven minutes of processor time.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from measure import machine

import polylens

LIMIT = 1.05
SIDE = 112
"""Pixels of a slice of the tiny model."""

DIMENSIONS = 128
"""Of its vectors."""


@dataclass(frozen=True, slots=True)
class Peak:
    """Bytes at the highest: of the main process, of its workers, of all of them at one moment, and of the device."""

    main: int
    workers: int
    together: int
    device: int
    seconds: float


def main() -> None:
    args = _arguments()
    if args.train:
        _train(args)
        return
    print(machine())
    with tempfile.TemporaryDirectory() as scratch:
        args.folder = args.folder or Path(scratch)
        write_pages(args.folder, max(args.batches))
        peaks = {size: _measure(size, args) for size in args.batches}
    sys.exit(_report(args, peaks))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, nargs="+", default=[256, 4096])
    parser.add_argument("--micro-batch", type=int, default=8)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--pixel-cache-gb", type=float, default=0.05)
    parser.add_argument("--folder", type=Path, help="where the pages are, or are to be kept")
    parser.add_argument("--train", type=int, metavar="BATCH", help="train at this batch size, and measure nothing")
    return parser.parse_args()


def write_pages(folder: Path, pages: int) -> None:
    """Pages that are cut into an overview and nine slices, and a query for each."""
    from polylens.data.documents import Document
    from polylens.data.store import DocumentWriter

    folder.mkdir(parents=True, exist_ok=True)
    if (folder / "pairs.jsonl").exists():
        return
    chooser = random.Random(0)
    with DocumentWriter(folder / "store") as writer:
        for i in range(pages):
            writer.write(Document(f"book.pdf#{i + 1}", _page(chooser)))
    lines = [
        json.dumps({"id": f"q{i}", "query": {"text": f"what is on page {i}?"}, "positives": [f"book.pdf#{i + 1}"]})
        for i in range(pages)
    ]
    (folder / "pairs.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _page(chooser: random.Random) -> bytes:
    from PIL import Image, ImageDraw

    page = Image.new("RGB", (3 * SIDE + 40, 4 * SIDE), "white")
    draw = ImageDraw.Draw(page)
    for y in range(20, page.height - 20, 12):
        draw.line([20, y, chooser.randint(40, page.width - 20), y], fill="black", width=4)
    buffer = io.BytesIO()
    page.save(buffer, "PNG")
    return buffer.getvalue()


def _train(args: argparse.Namespace) -> None:
    """What the child process does; its last line tells the device's peak."""
    import torch

    from polylens.config.run import DataConfig, GradientCacheConfig

    torch.set_num_threads(1)
    data = DataConfig(train=[str(args.folder / "pairs.jsonl")], documents=[str(args.folder / "store")])
    cache = GradientCacheConfig(micro_batch_size=args.micro_batch, pixel_cache_gb=args.pixel_cache_gb)
    training = {
        "per_device_train_batch_size": args.train,
        "max_steps": 1,
        "dataloader_num_workers": args.workers,
        "save_strategy": "no",
        "report_to": "none",
    }
    with tempfile.TemporaryDirectory() as output:
        polylens.train(
            polylens.RunConfig(
                model_plugin="minicpmv",
                model="tiny",
                output_dir=output,
                data=data,
                gradient_cache=cache,
                options={"max_slice_nums": 9},
                training=training,
            )
        )
    print(torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0)


def _measure(size: int, args: argparse.Namespace) -> Peak:
    """The peak of a training run at one batch size."""
    same = [f"--{name}={value}" for name, value in (("micro-batch", args.micro_batch), ("workers", args.workers),
            ("pixel-cache-gb", args.pixel_cache_gb), ("folder", args.folder), ("train", size))]  # fmt: skip
    started = time.monotonic()
    child = subprocess.Popen([sys.executable, __file__, *same], stdout=subprocess.PIPE, text=True)
    main = workers = together = 0
    while child.poll() is None:
        sizes = [_proportional_size(pid) for pid in _family(child.pid)]
        main, workers, together = max(main, *sizes[:1]), max(workers, sum(sizes[1:])), max(together, sum(sizes))
        time.sleep(0.5)
    assert child.stdout is not None
    output = child.stdout.read()
    if child.returncode:
        sys.exit(f"training at batch size {size} failed")
    return Peak(main, workers, together, int(output.split()[-1]), time.monotonic() - started)


def _family(pid: int) -> list[int]:
    """A process, and all that it started, directly or not."""
    children: list[str] = []
    for thread in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            children += thread.read_text(encoding="ascii").split()
    return [pid, *(member for child in children for member in _family(int(child)))]


def _proportional_size(pid: int) -> int:
    """Bytes of resident memory, of shared pages this process's part; 0 for a process that has just ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)


def _report(args: argparse.Namespace, peaks: dict[int, Peak]) -> int:
    """Print what was seen; 1 if memory grew."""
    print(f"pages of 10 slices, micro-batches of {args.micro_batch} rows, {args.workers} workers")
    print("batch   main  workers  together  device  vectors   (MB)   time")
    for size, peak in peaks.items():
        figures = (peak.main, peak.workers, peak.together, peak.device, _vectors(size))
        main, workers, together, device, vectors = (figure / 1e6 for figure in figures)
        print(
            f"{size:5} {main:6.0f} {workers:8.0f} {together:9.0f} {device:7.0f} {vectors:8.1f} {peak.seconds:12.0f} s"
        )
    least, most = min(peaks), max(peaks)
    growths = [
        (name, (large - _vectors(most)) / (small - _vectors(least)))
        for name in ("main", "together", "device")
        if (small := getattr(peaks[least], name)) and (large := getattr(peaks[most], name))
    ]
    for name, growth in growths:
        print(f"{name}: {growth:.3f} at {most} of what it is at {least}, the vectors aside")
    return int(any(growth > LIMIT for _, growth in growths))


def _vectors(size: int) -> int:
    """Bytes of a batch's vectors, queries and pages in float32, and of their gradients."""
    return size * 2 * DIMENSIONS * 4 * 2


if __name__ == "__main__":
    main()
