"""How a run ends early: by a first signal after its step, by a second at once; and what is kept."""

from __future__ import annotations

import os
import signal
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from tunesmith import __version__
from tunesmith.errors import Interrupted, TunesmithError
from tunesmith.rundir import RunDir

EXIT_OF_SIGNAL: dict[int, int] = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 143}


class Stop:
    """What a signal does: before there is a run, and the second time, it ends all work at once."""

    run: Any = None
    """The run that a first signal asks to finish its step and save."""

    def handle(self, number: int, frame: Any) -> None:
        if self.run is None or self.run.stop_signal is not None:
            raise Interrupted(EXIT_OF_SIGNAL[number])
        self.run.stop_signal = number


@contextmanager
def graceful() -> Iterator[Stop]:
    """Heeds SIGINT, SIGTERM and SIGHUP until the run's end is written down."""
    stop = Stop()
    try:
        # A signal that is ignored stays ignored: under nohup a closed terminal must not stop a run.
        heeded = [n for n in EXIT_OF_SIGNAL if signal.getsignal(n) != signal.SIG_IGN]
        previous = {number: signal.signal(number, stop.handle) for number in heeded}
    except ValueError:  # not the main thread: nobody can send us signals here
        previous = {}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def recorded(directory: RunDir, stop: Stop) -> Iterator[None]:
    """Keeps run.json true: running, then stopped or failed with its error; what ends as it should
    writes that itself."""
    directory.update(
        state="running", pid=os.getpid(), error=None, exit_code=None, tunesmith=__version__
    )
    try:
        yield
    except Interrupted as interrupt:
        stop.run = None
        why = "interrupted at once: resume goes on from the newest checkpoint"
        directory.update(state="stopped", error=why, exit_code=interrupt.exit_code)
        raise
    except BaseException as error:
        code = error.exit_code if isinstance(error, TunesmithError) else 1
        with suppress(OSError):  # a full disk must not hide what went wrong
            _write_trace(directory, error)
        with suppress(OSError, TunesmithError):
            why = str(error) or type(error).__name__
            directory.update(state="failed", error=why, exit_code=code)
        raise


def _write_trace(directory: RunDir, error: BaseException) -> None:
    with (directory.path / "log.txt").open("a") as log:
        log.write("".join(traceback.format_exception(error)))
