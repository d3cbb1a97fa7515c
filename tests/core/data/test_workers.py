import os
import signal
import subprocess
import sys
import time
from pickle import PicklingError

import pytest
from unkillable.dying import half_an_answer

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


@pytest.mark.timeout(60)
def test_tasks_that_wait_at_a_worker_that_dies_are_done():
    """Of the tasks that a worker holds, it has died of the first alone."""
    tasks = ["__import__('os')._exit(1)", *map(str, range(9)), "__import__('os')._exit(2)", "7"]
    with WorkerPool(eval, 1, ahead=3) as pool:
        assert [result for _, result in pool.results(tasks)] == [None, *range(9), None, 7]


def test_what_cannot_be_sent_is_an_error_and_the_rest_goes_on():
    with WorkerPool(repr, 1, ahead=2) as pool:
        with pytest.raises((AttributeError, TypeError, PicklingError)):
            pool.alone(lambda: None)
        assert pool.alone(5) == "5"


@pytest.mark.timeout(60)
def test_a_worker_killed_while_it_answers_does_not_block_the_others(tmp_path):
    """The pipe of a killed worker must end, though other workers are alive."""
    tasks = [tmp_path / "there", tmp_path / "new"]
    tasks[0].touch()
    with WorkerPool(half_an_answer, 2) as pool:
        assert [len(result) for _, result in pool.results(tasks) if result] == [40_000] * 2
        assert pool.alone(tasks[0])


def test_errors_of_the_function_are_raised():
    with WorkerPool(abs, 1) as pool, pytest.raises(TypeError):
        list(pool.results(["text"]))


PARENT = """
import multiprocessing, time
from polylens.data.workers import WorkerPool
if __name__ == "__main__":
    pool = WorkerPool(abs, 2)
    print(list(pool.results(range(2))), *[child.pid for child in multiprocessing.active_children()], flush=True)
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
