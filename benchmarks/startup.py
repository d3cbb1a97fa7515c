"""Times the start of ``polylens`` beside a bare interpreter and prints the ratios.

    python benchmarks/startup.py [--rounds 30]

``polylens --help`` is compared with ``python -c pass``, and ``polylens plugins list`` with a script that does nothing
but read the same entry points. Each is a process of its own, turn by turn; the least processor time of the child and
the least time by the clock count. Modules are compiled before the first round, as pip leaves them. The program ends
with an error if the list lacks an entry point that the script reads.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from commands import CommandCost, compiled, cost, least, output

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
    with tempfile.TemporaryDirectory() as folder:
        environment = compiled(folder)
        _check_list({name: output(command, environment) for name, command in COMMANDS.items()})
        best: dict[str, CommandCost] = {}
        for _ in range(rounds):
            for name, command in COMMANDS.items():
                best[name] = least(best.get(name), cost(command, environment))
    for name, found in best.items():
        print(f"{name:<22} {found.seconds * 1e3:6.1f} ms processor {found.wall * 1e3:6.1f} ms wall")
    _print_ratio(best, "polylens --help", "python -c pass")
    _print_ratio(best, "polylens plugins list", "entry points")


def _check_list(printed: dict[str, str]) -> None:
    """Both read the same plugins; ``core`` is the core's own and not listed."""
    script, listed = printed["entry points"], printed["polylens plugins list"]
    names = {line.split()[0] for line in script.splitlines()} - {"core"}
    if names != {line.split()[0] for line in listed.splitlines()[1:]}:
        sys.exit(f"the list differs from the entry points:\n{listed}\n{script}")


def _print_ratio(best: dict[str, CommandCost], name: str, peer: str) -> None:
    seconds, wall = (own / other for own, other in zip(best[name], best[peer], strict=True))
    print(f"{name} / {peer}: {seconds:.2f} processor, {wall:.2f} wall")


if __name__ == "__main__":
    main()
