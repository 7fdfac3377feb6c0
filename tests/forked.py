"""A process of its own without the seconds in which a fresh one imports torch: a forked child.

For what needs a process (a signal, a kill, a rank) but nothing of a fresh interpreter.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

CRASHED = 99


class Forked:
    """Calls `target` in a child; its result is the exit code (None: 0).

    Args:
        target: What to do. In the child the standard streams are real ones again.
        output: File that takes the child's standard output and error.
    """

    def __init__(self, target: Callable[[], int | None], output: Path):
        self.output = output
        self.returncode: int | None = None
        output.touch()
        self.pid = os.fork()
        if self.pid == 0:
            _become(target, output)

    def poll(self) -> int | None:
        """The exit code, −N after signal N, or None while it runs."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, seconds: float = 60.0) -> int:
        """Waits for its end; one that does not come is killed and fails the test."""
        end = time.monotonic() + seconds
        while self.poll() is None:
            if time.monotonic() > end:
                self.kill()
                raise AssertionError(f"it did not end: {self.said()[-2000:]}")
            time.sleep(0.005)
        assert self.returncode is not None
        return self.returncode

    def said(self) -> str:
        """What it has printed so far."""
        return self.output.read_text(errors="replace")

    def send_signal(self, number: int) -> None:
        """Sends a signal, if it still runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL, and the end of it."""
        self.send_signal(signal.SIGKILL)
        if self.returncode is None:
            _, status = os.waitpid(self.pid, 0)
            self.returncode = os.waitstatus_to_exitcode(status)


def _become(target: Callable[[], int | None], output: Path) -> None:
    """The child; never returns."""
    code = CRASHED
    try:
        null = os.open(os.devnull, os.O_RDONLY)
        out = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for source, descriptor in ((null, 0), (out, 1), (out, 2)):
            os.dup2(source, descriptor)
        sys.stdin = open(0, closefd=False)  # noqa: SIM115
        sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        code = target() or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
