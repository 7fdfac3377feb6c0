"""Processes: every task answered once, errors and deaths reported, no process left behind."""

from __future__ import annotations

import os
import threading

import pytest

from tunesmith.data import workers
from tunesmith.errors import DataError, RunError


class Square:
    def __call__(self):
        return square


def square(task):
    if task == "data":
        raise DataError("D204", "bad", where="f:1", fix="mend")
    if task == "disk":
        raise OSError(28, "No space left on device")
    if task == "bug":
        raise KeyError("oops")
    if task == "die":
        os._exit(9)
    return os.getpid(), task * task


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_every_task_is_answered(processes):
    found = list(workers.run(Square(), range(20), processes))
    assert sorted(answer for _, answer in found) == [n * n for n in range(20)]
    assert os.getpid() not in {process for process, _ in found}
    assert len({process for process, _ in found}) <= processes


def test_no_tasks():
    assert list(workers.run(Square(), [], 2)) == []


def test_errors_cross_the_border():
    with pytest.raises(DataError) as caught:
        list(workers.run(Square(), [1, "data", 2], 2))
    assert (caught.value.code, caught.value.where, caught.value.fix) == ("D204", "f:1", "mend")
    with pytest.raises(OSError, match="No space left"):
        list(workers.run(Square(), ["disk"], 2))
    with pytest.raises(RuntimeError, match="KeyError: 'oops'"):
        list(workers.run(Square(), ["bug"], 2))


def test_a_dead_process_is_an_error():
    with pytest.raises(RunError, match=r"R220.*exit code 9"):
        list(workers.run(Square(), [1, 2, "die", 3, 4], 2))


def test_workers_end_when_nobody_asks_any_more():
    running = workers.run(Square(), range(100), 2)
    pids = {next(running)[0] for _ in range(6)}
    running.close()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_process_with_threads_is_not_forked():
    assert workers.start_method() in ("fork", "spawn")
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    try:
        assert workers.start_method() == "spawn"
        assert [answer for _, answer in workers.run(Square(), [3], 1)] == [9]
    finally:
        done.set()
        thread.join()
