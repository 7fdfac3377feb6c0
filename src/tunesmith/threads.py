"""Whether the threads of a product wait for each other awake or asleep.

A product on several cores ends with every thread waiting for the last. Awake it goes on at once:
a step of decoding has hundreds of small products, and takes a third less time. But where somebody
else wants the core, a thread that waits awake keeps away what it waits for, and everything takes
twice as long and more (ADR 0025). libgomp, which runs the threads of torch on Linux, decides by
their number: as many as there are cores wait awake for some milliseconds, more than that fall
asleep at once. So a look every half second at how long our threads stood in line for a core tells
whether we are alone, and where we are not, a few more threads are made, which only sleep.

What is computed stays the same to the last bit: the threads that compute are as many as before.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tunesmith import platform

INTERVAL_S = 0.5
BUSY = 0.2
"""Looks at which the process computed less than this share of a core tell nothing."""
CROWDED = 0.1
"""Threads that stood in line for this share of their time have company."""
CALM = 4
"""So many looks in a row without company, and threads wait awake again."""
TASKS = Path("/proc/self/task")

Times = dict[str, tuple[int, int]]
"""By thread: nanoseconds on a core, nanoseconds in line for one."""


def times(tasks: Path = TASKS) -> Times:
    """What Linux counted for each thread of this process; empty where it does not count."""
    return dict(_read(tasks))


def _read(tasks: Path) -> Iterator[tuple[str, tuple[int, int]]]:
    try:
        names = os.listdir(tasks)
    except OSError:
        return
    for name in names:
        try:
            computed, waited, _ = (tasks / name / "schedstat").read_text().split()
        except (OSError, ValueError):  # the thread has ended, or nothing is counted
            continue
        yield name, (int(computed), int(waited))


def share_in_line(before: Times, after: Times, seconds: float) -> float | None:
    """Share of their time that threads stood in line; None: they did too little to tell."""
    both = before.keys() & after.keys()
    computed = sum(after[name][0] - before[name][0] for name in both)
    waited = sum(after[name][1] - before[name][1] for name in both)
    if computed + waited < BUSY * seconds * 1e9:
        return None
    return waited / (computed + waited)


class Team:
    """Sleeping threads that make libgomp manage more of them than there are cores.

    Args:
        library: libgomp, as it is loaded.
        count: Threads to manage beside those that compute.
    """

    def __init__(self, library: Any, count: int):
        self._stop, made = threading.Event(), threading.Event()

        def hold() -> None:
            # any function will do: it is called once by each thread, and changes nothing
            body = ctypes.cast(library.omp_get_thread_num, ctypes.c_void_p)
            library.GOMP_parallel(body, None, count + 1, 0)
            made.set()
            self._stop.wait()

        self._thread = threading.Thread(target=hold, name="tunesmith-team", daemon=True)
        self._thread.start()
        made.wait()

    def dismiss(self) -> None:
        """Ends the threads; libgomp forgets them with the one that began them."""
        self._stop.set()
        self._thread.join()


class Watch:
    """Looks again and again, and keeps a team as long as there is company.

    Args:
        count: Threads of the team.
    """

    def __init__(self, count: int):
        self.count = count
        self.team: Team | None = None
        self.calm = 0

    def heed(self, share: float | None) -> None:
        """What a look told."""
        if share is None:
            return
        self.calm = 0 if share > CROWDED else self.calm + 1
        if self.team is None and not self.calm:
            found = library()
            self.team = Team(found, self.count) if found is not None else None
        elif self.team is not None and self.calm >= CALM:
            self.team.dismiss()
            self.team = None

    def run(self) -> None:
        """Looks as long as the process lives."""
        before = times()
        while True:
            time.sleep(INTERVAL_S)
            after = times()
            self.heed(share_in_line(before, after, INTERVAL_S))
            before = after


def library() -> Any:
    """libgomp as torch loaded it, or None."""
    torch = sys.modules.get("torch")
    if torch is None or not sys.platform.startswith("linux"):
        return None
    for path in Path(str(torch.__file__)).parent.glob("lib/libgomp*.so*"):
        try:
            found = ctypes.CDLL(str(path), mode=os.RTLD_NOW | os.RTLD_NOLOAD)
        except OSError:  # this torch computes with another library
            continue
        if hasattr(found, "GOMP_parallel"):
            return found
    return None


_watching: list[threading.Thread] = []
os.register_at_fork(after_in_child=_watching.clear)


def watch() -> None:
    """Looks for company from now on, in a thread of its own; further calls do nothing.

    Nothing is looked for where it can't be, where one thread computes, or where the environment
    says how threads wait (OMP_WAIT_POLICY, GOMP_SPINCOUNT).
    """
    computing = int(os.environ.get("OMP_NUM_THREADS") or platform.cores())
    if _watching or computing < 2 or platform.WAITING & os.environ.keys() or not times():
        return
    count = max(1, platform.cores() - computing + 1)
    thread = threading.Thread(target=Watch(count).run, name="tunesmith-watch", daemon=True)
    _watching.append(thread)
    thread.start()


def release() -> None:
    """Ends the threads that computed for the calling one, which leaves computing to another.

    Otherwise libgomp would manage those of both, more than there are cores.
    """
    found = library()
    if found is not None and hasattr(found, "omp_pause_resource_all"):
        found.omp_pause_resource_all(1)  # omp_pause_soft
