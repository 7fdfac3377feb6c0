"""Faults at the n-th file operation of a forked child: killed, torn, out of space, out of power.

The product has no hooks for this. The child counts its own file operations by Python's audit events
(open for writing, mkdir, rename, remove, rmdir, truncate) and by wrapping `os.write` and
`os.fsync`, for which there are no events, and strikes before the one it was told.
"""

from __future__ import annotations

import errno
import functools
import importlib
import itertools
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from tunesmith.errors import TunesmithError

EVENTS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "os.link"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_DIRECTORY
KINDS = ("kill", "torn", "power")
"""kill: SIGKILL before the operation; torn: half of a write, then SIGKILL; power: SIGKILL, and all
that was written but not fsynced is gone."""
REFUSED, CRASHED = 10, 11


CALLS = {
    "token": ("tunesmith.generation.torch", "TorchGenerator", "step"),
    "measure": ("tunesmith.models.language_model", "LanguageModel", "score"),
    "update": ("tunesmith.parallel.single", "SingleParallel", "step"),
}
"""Functions within a round of sampled answers: a token of all answers in hand, a forward pass over
answers, an update of the weights."""


class Operation(NamedTuple):
    name: str
    path: str


class Ended(NamedTuple):
    """How a child ended."""

    killed: bool
    code: int
    message: str


def run(target: Callable[[], Any], before: Callable[[], Any] | None = None) -> Ended:
    """Runs `target` in a forked child; a TunesmithError ends it with REFUSED and its text.

    Args:
        target: What to do; its result is dropped.
        before: Installs a fault in the child.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        code, message = 0, ""
        try:
            if before is not None:
                before()
            target()
        except TunesmithError as error:
            code, message = REFUSED, str(error)
        except BaseException:
            code, message = CRASHED, traceback.format_exc()
        finally:
            _write(writing, message.encode()[:60_000])
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        message = pipe.read().decode()
    _, status = os.waitpid(child, 0)
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    ended = Ended(killed, -1 if killed else os.WEXITSTATUS(status), message)
    assert killed or not os.WIFSIGNALED(status), f"signal {os.WTERMSIG(status)}"
    assert ended.code != CRASHED, message
    return ended


def record(target: Callable[[], Any], root: Path) -> list[Operation]:
    """The file operations below `root` that `target` makes, in order; it runs in a child."""
    log = root.parent / f"{root.name}.operations"
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    ended = run(target, lambda: install(root, lambda i, what, state: note(descriptor, what)))
    os.close(descriptor)
    assert ended.code == 0, ended.message
    return recorded(log)


def note(descriptor: int, operation: Operation) -> None:
    """Writes an operation down, uncounted."""
    _write(descriptor, f"{operation.name}\t{operation.path}\n".encode())


def recorded(log: Path) -> list[Operation]:
    """The operations that were written down."""
    return [Operation(*line.split("\t")) for line in log.read_text().splitlines()]


def kill(root: Path, at: int, kind: str) -> Callable[[], None]:
    """Strikes with SIGKILL before operation `at`."""

    def strike(index: int, operation: Operation, state: State) -> None:
        if index != at:
            return
        if kind == "torn" and operation.name == "write":
            state.half()
        if kind == "power":
            state.lose(root)
        os.kill(os.getpid(), signal.SIGKILL)

    return lambda: install(root, strike)


def fail(root: Path, at: int, error: int, *, stays: bool = False) -> Callable[[], None]:
    """Lets operation `at` fail; with `stays` later ones too (ENOSPC: those that need room)."""

    def strike(index: int, operation: Operation, state: State) -> None:
        needs_room = error != errno.ENOSPC or operation.name in {"open", "write", "os.mkdir"}
        if index == at or (stays and index > at and needs_room):
            raise OSError(error, os.strerror(error))

    return lambda: install(root, strike)


def kill_in_call(name: str, number: int) -> None:
    """Strikes with SIGKILL before call `number` of a function of `CALLS`. For good: in a child."""

    def strike(index: int) -> None:
        if index == number:
            os.kill(os.getpid(), signal.SIGKILL)

    _before_each(name, strike)


def count_calls(path: Path) -> None:
    """Keeps the numbers of calls of all `CALLS` in a JSON file. For good: in a child."""
    counts = dict.fromkeys(CALLS, 0)

    def count(name: str, index: int) -> None:
        counts[name] = index + 1
        path.write_text(json.dumps(counts))

    for name in CALLS:
        _before_each(name, functools.partial(count, name))


def _before_each(name: str, act: Callable[[int], None]) -> None:
    module, owner, attribute = CALLS[name]
    cls = vars(importlib.import_module(module))[owner]
    original, numbers = vars(cls)[attribute], itertools.count()

    @functools.wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:
        act(next(numbers))
        return original(*args, **kwargs)

    setattr(cls, attribute, call)


class State:
    """What has been written, to tear a write or to lose what was not fsynced."""

    def __init__(self) -> None:
        self.pending: tuple[int, Any] | None = None
        self._synced: dict[int, int] = {}

    def wrote(self, descriptor: int) -> None:
        self._synced.setdefault(os.fstat(descriptor).st_ino, 0)

    def synced(self, descriptor: int) -> None:
        status = os.fstat(descriptor)
        if status.st_ino in self._synced:
            self._synced[status.st_ino] = status.st_size

    def half(self) -> None:
        """Performs the first half of the pending write."""
        descriptor, data = self.pending
        _write(descriptor, data[: len(data) // 2])

    def lose(self, root: Path) -> None:
        """Cuts every file below `root` to what was fsynced of it."""
        for path in (p for p in root.rglob("*") if p.is_file()):
            size = self._synced.get(path.stat().st_ino)
            if size is not None:
                _truncate(path, size)


_write, _fsync, _truncate = os.write, os.fsync, os.truncate


def install(root: Path, strike: Callable[[int, Operation, State], None]) -> None:
    """Calls `strike(index, operation, state)` before each file operation below `root`.

    For good: only in a child.
    """
    state, count, busy = State(), 0, False
    prefix = str(root)

    def meet(name: str, path: str) -> None:
        nonlocal count, busy
        if busy:  # the strike's own operations
            return
        count += 1
        busy = True
        try:
            strike(count - 1, Operation(name, path), state)
        finally:
            busy = False

    def hook(event: str, arguments: tuple) -> None:
        if event not in EVENTS or not isinstance(arguments[0], str | bytes | os.PathLike):
            return
        path = os.fsdecode(arguments[0])
        if event == "open" and not _writes(*arguments[1:]):
            return
        relative = event in {"os.remove", "os.rmdir"} and not os.path.isabs(path)
        if path.startswith(prefix) or relative:  # rmtree removes by names relative to a directory
            meet(event, path)

    def write(descriptor: int, data: Any) -> int:
        path = _path(descriptor)
        if path.startswith(prefix):
            state.pending = (descriptor, data)
            state.wrote(descriptor)
            meet("write", path)
        return _write(descriptor, data)

    def fsync(descriptor: int) -> None:
        path = _path(descriptor)
        if path.startswith(prefix):
            meet("fsync", path)
            state.synced(descriptor)
        _fsync(descriptor)

    os.write, os.fsync = write, fsync
    sys.addaudithook(hook)


def _writes(mode: Any, flags: Any) -> bool:
    if isinstance(mode, str):
        return any(letter in mode for letter in "wax+")
    return bool(flags & WRITING)


def _path(descriptor: int) -> str:
    return os.readlink(f"/proc/self/fd/{descriptor}")
