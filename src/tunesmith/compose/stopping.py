"""How a run ends early: by a first signal after its step, by a second at once; and what is kept."""

from __future__ import annotations

import errno
import os
import re
import signal
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tunesmith import __version__
from tunesmith.compose.display import Display
from tunesmith.errors import Interrupted, RunError, TunesmithError
from tunesmith.rundir import RunDir

EXIT_OF_SIGNAL: dict[int, int] = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 143}


DISK = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EROFS,
    errno.EIO,
    errno.EACCES,
    errno.EPERM,
    errno.ENOENT,
}
"""What a file system says when a run directory can't be written, or was taken away."""
_OF_RUST = re.compile(r"\(os error (\d+)\)")


class Stop:
    """What a signal does: before there is a run, and the second time, it ends all work at once."""

    run: Any = None
    """The run that a first signal asks to finish its step and save."""
    display: Display | None = None
    """Says that the signal was heard: a step may be long."""

    def handle(self, number: int, frame: Any) -> None:
        if self.run is None or self.run.stop_signal is not None:
            raise Interrupted(EXIT_OF_SIGNAL[number])
        self.run.stop_signal = number
        self.say("after this step, then save; once more to stop at once")

    def say(self, text: str) -> None:
        """Shows a line; left out where the signal came while another was being printed."""
        if self.display is not None:
            with suppress(RuntimeError):
                self.display.line("stop", text)


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
        stop.say(f"at once; from the newest checkpoint: tunesmith resume {directory.id}")
        raise
    except BaseException as error:
        code = error.exit_code if isinstance(error, TunesmithError) else 1
        with suppress(OSError):  # a full disk must not hide what went wrong
            _write_trace(directory, error)
        with suppress(OSError, TunesmithError):
            why = str(error) or type(error).__name__
            directory.update(state="failed", error=why, exit_code=code)
        raise


@contextmanager
def disk_errors(directory: RunDir) -> Iterator[None]:
    """Tells a disk that is full, read-only or gone as what it is: no bug, and nothing is lost.

    Raises:
        RunError: R121.
    """
    try:
        yield
    except TunesmithError:
        raise
    except Exception as error:
        number = _disk_error(error, directory)
        if number is None:
            raise
        raise RunError(
            "R121",
            f"the run directory can't be written: {os.strerror(number)}",
            where=str(directory.path),
            why="Checkpoints that were saved are as they were.",
            fix=f"free space or mend the disk, then: tunesmith resume {directory.id}",
        ) from error


def _disk_error(error: Exception, directory: RunDir) -> int | None:
    """The errno of an error about the run directory; safetensors says it in its message only."""
    if isinstance(error, OSError):
        named = str(error.filename or directory.path)
        inside = Path(named).is_relative_to(directory.path)
        return error.errno if inside and error.errno in DISK else None
    told = _OF_RUST.search(str(error))
    return int(told[1]) if told and int(told[1]) in DISK else None


def _write_trace(directory: RunDir, error: BaseException) -> None:
    with (directory.path / "log.txt").open("a") as log:
        log.write("".join(traceback.format_exception(error)))
