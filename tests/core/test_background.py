import threading

import pytest

from polylens.background import Background


def test_calls_run_beside_the_caller_and_one_after_another():
    done: list[int] = []
    may_end = threading.Event()

    def call(number: int) -> None:
        may_end.wait(10)
        done.append(number)

    background = Background()
    assert not background.busy
    background.start(call, 1)
    assert background.busy
    assert done == []
    may_end.set()
    background.start(call, number=2)
    assert done[0] == 1
    background.end()
    assert done == [1, 2]
    assert not background.busy


@pytest.mark.parametrize("waiting", ["end", "start"])
def test_an_error_is_raised_once_where_the_call_is_waited_for(waiting):
    started: list[int] = []
    background = Background()
    background.start(int, "five")
    with pytest.raises(ValueError, match="five"):
        background.end() if waiting == "end" else background.start(started.append, 1)
    background.end()
    assert started == []
