"""Times the start of ``polylens`` beside a bare interpreter and prints the ratios.

    python benchmarks/startup.py [--rounds 30]

``polylens --help`` is compared with ``python -c pass``, and ``polylens plugins list`` with a script that does nothing
but read the same entry points. Each is a process of its own, turn by turn; the least processor time of the child and
the least time by the clock count. Modules are compiled before the first round, as pip leaves them. The program ends
with an error if the list lacks an entry point that the script reads.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SCRIPT = """
from importlib.metadata import entry_points
for entry in entry_points(group="polylens.plugins"):
    print(entry.name, entry.value)
"""
POLYLENS = str(Path(sys.executable).with_name("polylens"))
COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "polylens --help": [POLYLENS, "--help"],
    "entry points": [sys.executable, "-c", SCRIPT],
    "polylens plugins list": [POLYLENS, "plugins", "list"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as compiled:
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        environment["PYTHONPYCACHEPREFIX"] = compiled
        _check_list(environment)
        best = _best(environment, rounds)
    for name, (seconds, wall) in best.items():
        print(f"{name:<22} {seconds * 1e3:6.1f} ms processor {wall * 1e3:6.1f} ms wall")
    _print_ratio(best, "polylens --help", "python -c pass")
    _print_ratio(best, "polylens plugins list", "entry points")


def _check_list(environment: dict[str, str]) -> None:
    """Both read the same plugins; ``core`` is the core's own and not listed. Runs and so compiles every command."""
    script, listed = (_output(COMMANDS[name], environment) for name in ("entry points", "polylens plugins list"))
    for name in ("python -c pass", "polylens --help"):
        _output(COMMANDS[name], environment)
    names = {line.split()[0] for line in script.splitlines()} - {"core"}
    if names != {line.split()[0] for line in listed.splitlines()[1:]}:
        sys.exit(f"the list differs from the entry points:\n{listed}\n{script}")


def _output(command: list[str], environment: dict[str, str]) -> str:
    return subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout


def _best(environment: dict[str, str], rounds: int) -> dict[str, tuple[float, float]]:
    best = dict.fromkeys(COMMANDS, (float("inf"), float("inf")))
    for _ in range(rounds):
        for name, command in COMMANDS.items():
            seconds, wall = _cost(command, environment)
            best[name] = min(best[name][0], seconds), min(best[name][1], wall)
    return best


def _cost(command: list[str], environment: dict[str, str]) -> tuple[float, float]:
    """Processor time, user and system, and time by the clock of a process that has ended."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    _output(command, environment)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall


def _print_ratio(best: dict[str, tuple[float, float]], name: str, peer: str) -> None:
    seconds, wall = (own / other for own, other in zip(best[name], best[peer], strict=True))
    print(f"{name} / {peer}: {seconds:.2f} processor, {wall:.2f} wall")


if __name__ == "__main__":
    main()
