"""Gives polylens mutated input of every kind, and fails if one ends in a traceback or is lost without a word.

    python tests/fuzz/run.py --count 10000 --seed 0

A mutated input may be accepted (its records are then compared with what stands in the file), refused with an
``InputError``, or quarantined record by record. A traceback, a crash of the process, a hang, and a record that is
neither delivered nor reported are failures. Every tenth input also goes through the command line, every hundredth
through a real ``polylens`` process. Inputs that fail are kept, with the reason, in ``--keep``; an input follows from
its kind, the seed and its number, so ``--kinds K --seed S --only N`` makes it again.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Empty, SimpleQueue

sys.path.insert(0, str(Path(__file__).parents[1]))

from fuzz.kinds import KINDS, SHARES
from fuzz.outcome import Outcome
from fuzz.worker import Task, Worker

COLUMNS = ("inputs", "accepted", "refused", "quarantined", "traceback", "dropped", "crash", "hang")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000, help="inputs of all kinds together (default: 10000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=list(KINDS), metavar="KIND")
    parser.add_argument("--only", type=int, help="the input of this number alone")
    parser.add_argument("--jobs", type=int, default=2, help="processes (default: 2)")
    parser.add_argument(
        "--limit", type=float, default=30.0, help="seconds of processor time for one input (default: 30)"
    )
    parser.add_argument("--keep", type=Path, default=Path("fuzz-failures"), help="where failing inputs are kept")
    args = parser.parse_args(argv)
    start = time.monotonic()
    counts = _run(args)
    print(table(counts))
    print(f"seed {args.seed}, {time.monotonic() - start:.0f} s")
    failures = sum(count[column] for count in counts.values() for column in COLUMNS[4:])
    if failures:
        print(f"{failures} inputs failed: see {args.keep}")
    return 1 if failures else 0


def _share(kind: str, args: argparse.Namespace) -> int:
    return max(1, round(args.count * SHARES[kind] / sum(SHARES[name] for name in args.kinds)))


def _run(args: argparse.Namespace) -> dict[str, Counter[str]]:
    """All inputs, shared out over the processes."""
    waiting: SimpleQueue[Task] = SimpleQueue()
    for kind in args.kinds:
        for number in range(_share(kind, args)) if args.only is None else [args.only]:
            waiting.put(Task(kind, args.seed, number))
    with ThreadPoolExecutor(args.jobs) as pool:
        done = [outcome for part in pool.map(lambda _: _drain(waiting, args), range(args.jobs)) for outcome in part]
    counts: dict[str, Counter[str]] = {kind: Counter() for kind in args.kinds}
    for task, outcome in done:
        counts[task.kind].update(("inputs", outcome.status))
        counts[task.kind]["quarantined"] += outcome.quarantined
    return counts


def _drain(waiting: SimpleQueue[Task], args: argparse.Namespace) -> list[tuple[Task, Outcome]]:
    done: list[tuple[Task, Outcome]] = []
    with tempfile.TemporaryDirectory() as scratch:
        worker = Worker(Path(scratch), args.limit)
        try:
            while True:
                task = waiting.get_nowait()
                outcome = worker.run(task)
                done.append((task, outcome))
                if outcome.failed:
                    _keep(args.keep, task, outcome, worker.folder)
        except Empty:
            return done
        finally:
            worker.close()


def _keep(keep: Path, task: Task, outcome: Outcome, folder: Path) -> None:
    target = keep / f"{task.kind.replace(' ', '_')}-{task.seed}-{task.number}"
    shutil.rmtree(target, ignore_errors=True)
    if folder.is_dir():
        shutil.copytree(folder, target, symlinks=True)
    target.mkdir(parents=True, exist_ok=True)
    (target / "failure.txt").write_text(f"{outcome.status}\n{outcome.detail}\n", errors="backslashreplace")


def table(counts: dict[str, Counter[str]]) -> str:
    """One row a kind, and one for all of them."""
    rows = {**counts, "all": sum(counts.values(), Counter())}
    width = max(map(len, rows))
    lines = [" ".join([f"{'kind':<{width}}", *(f"{column:>11}" for column in COLUMNS)])]
    lines += [
        " ".join([f"{kind:<{width}}", *(f"{count[column]:>11}" for column in COLUMNS)]) for kind, count in rows.items()
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
