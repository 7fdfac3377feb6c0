"""A function over many tasks in several processes: at most one task in flight in each.

A process of `concurrent.futures` would do, but for three things: how processes start is decided by
what is safe here, a killed worker is an error within the moment, and nothing global is needed to
give each process an encoder of its own.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection, wait
from multiprocessing.reduction import ForkingPickler
from typing import Any, cast

from tunesmith.errors import RunError, TunesmithError

Function = Callable[[Any], Any]


def run(make: Callable[[], Function], tasks: Iterable[Any], processes: int) -> Iterator[Any]:
    """Results of `make()(task)` for every task, as they are ready.

    Args:
        make: Builds the function in each process; must pickle.
        tasks: Read as processes become free, one ahead.
        processes: How many.

    Raises:
        RunError: R220, a process died (killed, or out of memory).
        TunesmithError, OSError: raised by the function.
    """
    workers: dict[Connection, Any] = {}
    packed = (ForkingPickler.dumps(task) for task in tasks)
    try:
        for task in packed:
            connection = _start(make, processes, workers)
            connection.send_bytes(task)
            if len(workers) == processes:
                break
        busy = set(workers)
        ready = next(packed, None)
        while busy:
            for connection in cast(list[Connection], wait(list(busy))):
                result = _result(connection, workers[connection])
                if ready is None:
                    busy.discard(connection)
                else:
                    connection.send_bytes(ready)
                    ready = next(packed, None)
                yield result
    finally:
        for connection in workers:
            connection.close()  # a worker ends when nobody is at the other end
        for process in workers.values():
            process.join(timeout=5)
            if process.is_alive():
                process.kill()


def cores() -> int:
    """CPU cores this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _start(make: Callable[[], Function], processes: int, workers: dict[Connection, Any]):
    context: Any = multiprocessing.get_context(start_method())
    ours, theirs = context.Pipe()
    others = [ours, *workers] if context.get_start_method() == "fork" else []
    process = context.Process(target=_serve, args=(make, theirs, others), daemon=True)
    with warnings.catch_warnings():
        # Python 3.12 warns of any second thread, also of numpy's idle ones, which fork survives.
        warnings.simplefilter("ignore", DeprecationWarning)
        process.start()
    theirs.close()
    workers[ours] = process
    return ours


def start_method() -> str:
    """fork where it is safe: Linux, and no Python thread that may hold a lock. Workers never use
    torch or a GPU, so their state in this process does not matter. Else spawn."""
    return "fork" if sys.platform == "linux" and threading.active_count() == 1 else "spawn"


def _serve(make: Callable[[], Function], connection: Connection, others: list[Connection]) -> None:
    """The life of a worker."""
    for other in others:
        other.close()  # else a dead parent would go unnoticed
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # Processes share the cores already; threads of tokenizers don't survive a fork.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    function = None
    while True:
        try:
            task = connection.recv()
        except (EOFError, OSError):
            return
        try:
            function = function or _settled(make)
            answer = (True, function(task))
        except (TunesmithError, OSError) as error:
            answer = (False, error)
        except BaseException:
            answer = (False, traceback.format_exc())
        try:
            connection.send(answer)
        except OSError:
            return


def _settled(make: Callable[[], Function]) -> Function:
    """The function; from then on garbage is collected between tasks only.

    A batch of rows is thousands of small objects without cycles: looking through them again and
    again took a fifth of the time.
    """
    function = make()
    gc.disable()
    gc.freeze()

    def run(task: Any) -> Any:
        try:
            return function(task)
        finally:
            gc.collect()

    return run


def _result(connection: Connection, process: Any) -> Any:
    try:
        good, value = connection.recv()
    except (EOFError, OSError):
        process.join(timeout=5)
        raise RunError(
            "R220",
            f"an encoding process died (exit code {process.exitcode})",
            why="usually the machine ran out of memory",
            fix="set data.num_proc lower; what is encoded already is kept",
        ) from None
    if good:
        return value
    if isinstance(value, Exception):
        raise value
    raise RuntimeError(f"in an encoding process:\n{value}")
