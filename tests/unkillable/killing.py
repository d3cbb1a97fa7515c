"""Kills jobs at random moments with SIGKILL, starts them again, and compares what they make with an undisturbed run.

    PYTHONPATH=tests python -m unkillable.killing --job train --moments 50

A job is started, killed at a moment drawn over the time of an undisturbed run, started again over what is left, killed
again, and so on; whenever a run comes to its end, all that it made is compared and the next one starts in a new
folder. ``--inside`` draws moments over the writing of files alone, as ``--job checkpoint`` always does. ``--victim
member`` kills one process of the job (a rank, a data worker, a launcher), and the others must then end by themselves.
Ends with an error if a run leaves anything else than the undisturbed one, leaves a process behind, or does not end.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unkillable.jobs import JOBS, Job, make_job
from unkillable.processes import Running, running, send

PATIENCE = 300.0
"""Seconds in which a job must end: by itself, or after one of its processes was killed."""


@dataclass
class Tally:
    """What a series of kills met.

    Attributes:
        inside: kills that left a write unfinished.
        resumed: runs that were started over what a killed one had left.
        compared: runs that came to their end and were compared.
    """

    kills: int = 0
    inside: int = 0
    resumed: int = 0
    compared: int = 0

    def __str__(self) -> str:
        return f"{self.kills} kills, {self.inside} inside a write, {self.resumed} resumed, {self.compared} identical"


@dataclass
class Series:
    """Kills of one job.

    Args:
        folder: for the job's data, output and logs.
        victim: ``job`` for all of its processes at once, ``member`` for one of them.
        inside: draw moments over the writing of what ``job.partial`` names, not over the whole run.
        launched: start the job as users do; see ``Running``.
        steps: of training.
    """

    name: str
    folder: Path
    seed: int = 0
    victim: str = "job"
    inside: bool = False
    launched: bool = False
    steps: int = 6
    tally: Tally = field(default_factory=Tally)

    def __post_init__(self) -> None:
        self.draw = random.Random(f"{self.name} {self.victim} {self.seed}")
        self.job: Job = make_job(self.name, self.folder / "data", self.steps)
        self.expected: Any = None
        self.seconds = self.window = 0.0
        self.sizes: list[int] = []

    def run(self, moments: int) -> Tally:
        """Kill ``moments`` times; every run that ends is compared with an undisturbed one."""
        self._undisturbed()
        chain, resumed = 0, False
        while self.tally.kills < moments or resumed:
            output = self.folder / f"chain{chain}"
            self.tally.resumed += resumed
            resumed = self._one(output, kill=self.tally.kills < moments) and not self.job.is_done(output)
            if not resumed:
                self.compare(output)
                chain += 1
        return self.tally

    def _undisturbed(self) -> None:
        with running(["--version"], self.folder / "log") as job:  # starts what jobs are forked from
            self._end(job)
        output, start = self.folder / "undisturbed", time.monotonic()
        with self._start(output) as job:
            if self.inside:
                job.wait_until(lambda: self._writing(output))
                writing = time.monotonic()
                job.wait_until(lambda: not self._writing(output))
                self.window = time.monotonic() - writing
            self._end(job)
        self.seconds = time.monotonic() - start
        self.expected = self.job.content(output)

    def _one(self, output: Path, kill: bool) -> bool:
        """Start the job, kill it if it is still there when the moment comes; whether it is to be started again."""
        with self._start(output) as job:
            if kill and self._reach_a_moment(job, output):
                what = self._kill(job)
                self.tally.kills += 1
                self.tally.inside += self.job.torn(output)
                print(f"{self.tally}: killed {what}", file=sys.stderr, flush=True)
            codes = job.wait(PATIENCE)
            assert "Traceback" not in job.output or self.launched, job.output
        return any(codes)

    def _start(self, output: Path):
        return running(self.job.command(output), self.folder / "log", self.job.ranks, launched=self.launched)

    def _reach_a_moment(self, job: Running, output: Path) -> bool:
        """Whether the job is still there at a moment that is drawn now."""
        if not self.inside:
            return not job.wait_for(self.draw.uniform(0, self.seconds))
        for _ in range(self.draw.randrange(1, 4)):
            if not job.wait_until(lambda: not self._writing(output)):
                return False
            if not job.wait_until(lambda: self._writing(output)):
                return False
        return not job.wait_for(self.draw.uniform(0, 1.2 * self.window))

    def _kill(self, job: Running) -> str:
        if self.victim == "job":
            job.kill()
            return "all"
        members = job.members()
        chosen = self.draw.choice(members) if members else 0
        what = job.describe(chosen)
        if members:
            send(chosen, signal.SIGKILL)
        return what

    def _writing(self, output: Path) -> bool:
        """Whether something is being written; a file that is there all the time counts when it has just grown."""
        found = list(output.glob(self.job.partial))
        if not self.job.grows:
            return bool(found)
        self.sizes, before = [path.stat().st_size for path in found if path.exists()], self.sizes
        return self.sizes != before

    def _end(self, job: Running) -> None:
        codes = job.wait(PATIENCE)
        assert not any(codes), job.output

    def compare(self, output: Path) -> None:
        """Check that a run left what the undisturbed one did."""
        found = self.job.content(output)
        different = [key for key in found.keys() | self.expected.keys() if found.get(key) != self.expected.get(key)]
        assert not different, f"{output}: not as in the undisturbed run: {sorted(different)}"
        self.tally.compared += 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--job", choices=JOBS, required=True)
    parser.add_argument("--moments", type=int, default=50, help="how many kills (default: 50)")
    parser.add_argument("--victim", choices=("job", "member"), default="job", help="default: job")
    parser.add_argument("--inside", action="store_true", help="kill while something is being written")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    parser.add_argument("--launched", action="store_true", help="with torchrun, as users start it; takes longer")
    args = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):  # a series that is stopped leaves no process behind either
        signal.signal(number, signal.default_int_handler)
    with tempfile.TemporaryDirectory() as folder:
        inside = args.inside or args.job == "checkpoint"
        series = Series(args.job, Path(folder), args.seed, args.victim, inside, args.launched)
        print(f"{args.job}, {args.victim}: {series.run(args.moments)}")


if __name__ == "__main__":
    main()
