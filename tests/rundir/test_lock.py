"""The lock: one winner, free after a kill, not kept by children, not disturbed by readers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

from tunesmith.errors import RunError
from tunesmith.rundir import lock

RACE = """
import sys
from pathlib import Path
from tunesmith.errors import RunError
from tunesmith.rundir import lock
sys.stdin.readline()
try:
    with lock.held(Path(sys.argv[1])):
        print("won", flush=True)
        sys.stdin.read()  # until all have tried
except RunError as error:
    print(error.code, flush=True)
"""

FORK = """
import os, signal, sys
from pathlib import Path
from tunesmith.rundir import lock
with lock.held(Path(sys.argv[1])):
    if os.fork() == 0:
        print(os.getpid(), flush=True)
    signal.pause()
"""


def test_a_race_has_one_winner(tmp_path):
    command = [sys.executable, "-c", RACE, str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    racers = [subprocess.Popen(command, **pipes) for _ in range(6)]
    for racer in racers:
        racer.stdin.write("go\n")
        racer.stdin.flush()
    said = sorted(racer.stdout.readline().strip() for racer in racers)
    for racer in racers:
        racer.communicate(timeout=60)
    assert said == ["R101"] * 5 + ["won"]


def test_a_worker_that_outlives_a_killed_run_does_not_keep_the_lock(tmp_path):
    command = [sys.executable, "-c", FORK, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as run:
        worker = int(run.stdout.readline())
        try:
            assert lock.is_held(tmp_path)
            run.kill()
            run.wait()
            os.kill(worker, 0)  # it lives
            assert not lock.is_held(tmp_path)
        finally:
            os.kill(worker, signal.SIGKILL)


def test_readers_do_not_get_in_the_way(tmp_path):
    with lock.held(tmp_path):
        pass
    stop = threading.Event()

    def ask():
        while not stop.is_set():
            lock.is_held(tmp_path)

    readers = [threading.Thread(target=ask) for _ in range(2)]
    for reader in readers:
        reader.start()
    try:
        for _ in range(20):
            with lock.held(tmp_path):
                assert lock.is_held(tmp_path)
    finally:
        stop.set()
        for reader in readers:
            reader.join()


def test_holder_of_nothing(tmp_path):
    assert lock.holder(tmp_path) == {}
    assert not lock.is_held(tmp_path)
    (tmp_path / ".lock").write_text("[")
    assert lock.holder(tmp_path) == {}
    with lock.held(tmp_path):
        assert lock.holder(tmp_path)["pid"] == os.getpid()
        with pytest.raises(RunError), lock.held(tmp_path):
            pass
