"""Folders that one worker of a test run makes for all of them."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], Any]) -> Path:
    """The folder, made by whoever asks first; others wait for it.

    Args:
        factory: pytest's `tmp_path_factory`.
        name: Of the folder; the same wherever the same is meant.
        make: Fills the empty folder it is given. Later nobody writes there.
    """
    top = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # each worker has a folder in that of the run
        top = top.parent
    folder = top / f"once-{name}"
    with (top / f"once-{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            aside = top / f"once-{name}.{os.getpid()}"
            aside.mkdir()
            make(aside)
            aside.rename(folder)
    return folder
