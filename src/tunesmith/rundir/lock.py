"""The lock of a run: flock, so that the kernel frees it however the holder dies."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tunesmith.errors import RunError

NAME = ".lock"
# A reader that asks `is_held` holds a shared lock for some microseconds; that is no rival.
PATIENCE_S = 0.2


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Holds the lock of a run directory.

    Raises:
        RunError: R101, another process holds it; names pid and host.
    """
    descriptor = os.open(folder / NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    mine = [descriptor]
    # A forked worker that outlives us must not keep the lock.
    os.register_at_fork(after_in_child=lambda: [os.close(mine.pop()) for _ in mine[:]])
    try:
        _take(descriptor, folder)
        os.ftruncate(descriptor, 0)
        facts = {"pid": os.getpid(), "host": socket.gethostname()}
        os.pwrite(descriptor, json.dumps(facts).encode(), 0)
        yield
    finally:
        if mine:  # empty in a forked child, which must not unlock its parent's run
            fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(mine.pop())


def _take(descriptor: int, folder: Path) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                break
            time.sleep(0.01)
    raise rival(folder)


def rival(folder: Path) -> RunError:
    """R101: another process holds the run."""
    found = holder(folder)
    return RunError(
        "R101",
        f"this run is held by process {found.get('pid', '?')} on {found.get('host', '?')}",
        where=str(folder),
        fix=f"wait for it, or: tunesmith stop {folder.name}",
    )


def is_held(folder: Path) -> bool:
    """Whether a living process holds the lock."""
    try:
        descriptor = os.open(folder / NAME, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def holder(folder: Path) -> dict[str, Any]:
    """pid and host of the last holder; empty if they are not known."""
    try:
        facts = json.loads((folder / NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}
