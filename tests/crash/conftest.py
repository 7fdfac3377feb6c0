"""Crash tests fsync thousands of times: a memory file system shows the same operations sooner."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def memory_folder(otherwise: Path) -> Iterator[Path]:
    """A folder in shared memory where the machine has it, for as long as it is needed."""
    if not os.access("/dev/shm", os.W_OK):
        yield otherwise
        return
    path = Path(tempfile.mkdtemp(prefix="tunesmith-", dir="/dev/shm"))
    try:
        yield path
    finally:
        shutil.rmtree(path)


@pytest.fixture
def tmp_path(tmp_path: Path) -> Iterator[Path]:
    """Like pytest's, but in shared memory."""
    with memory_folder(tmp_path) as path:
        yield path
