import os
import signal
import subprocess
import sys
import time

import pytest

from polylens.data.workers import WorkerPool


def test_results_come_in_order():
    with WorkerPool(abs, 2) as pool:
        assert list(pool.results(range(-20, 0))) == [(n, -n) for n in range(-20, 0)]


def test_only_the_task_that_kills_its_worker_is_lost():
    tasks = ["40 + 2", "2 + 3", "__import__('os')._exit(1)", *map(str, range(6))]
    with WorkerPool(eval, 2) as pool:
        assert [result for _, result in pool.results(tasks)] == [42, 5, None, 0, 1, 2, 3, 4, 5]
        assert pool.alone(tasks[2]) is None
        assert pool.alone(tasks[0]) == 42


def test_errors_of_the_function_are_raised():
    with WorkerPool(abs, 1) as pool, pytest.raises(TypeError):
        list(pool.results(["text"]))


PARENT = """
import time
from polylens.data.workers import WorkerPool
if __name__ == "__main__":
    pool = WorkerPool(abs, 2)
    print(list(pool.results(range(2))), *[process.pid for process in pool._pool._processes.values()], flush=True)
    time.sleep(60)
"""


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().split(")")[1].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def test_workers_end_with_a_killed_parent(tmp_path):
    (tmp_path / "parent.py").write_text(PARENT)
    with subprocess.Popen([sys.executable, tmp_path / "parent.py"], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        workers = [int(word) for word in parent.stdout.readline().rsplit("]")[1].split()]
        assert workers
        assert all(map(alive, workers))
        os.kill(parent.pid, signal.SIGKILL)
    for _ in range(200):
        if not any(map(alive, workers)):
            return
        time.sleep(0.05)
    pytest.fail(f"workers {workers} outlive their parent")
