"""Files that survive a power cut: written once, hashed on the way, fsynced, put in place by rename.

Every change to the disk goes through `os.open`, `os.write`, `os.fsync`, `os.mkdir`, `os.rename`,
`os.unlink` and `os.rmdir`, each looked up when it is called, so that a test can stop the process
before any one of them.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

CHUNK = 16 * 1024 * 1024
"""Bytes handed to the kernel at a time."""
SMALL = 1024 * 1024
"""Parts of fewer bytes are joined: an adapter has thousands of tensors of a few kilobytes."""


class Written(NamedTuple):
    """What a manifest says of a file."""

    size: int
    sha256: str


def write_file(path: Path, parts: Iterable[bytes | memoryview]) -> Written:
    """Writes a new file and waits until it is on the disk.

    The hash is of what was in memory, so it also catches what the disk made of it.

    Args:
        path: Must not exist yet.
        parts: Contents in order; a large one is written from where it is, without a copy.

    Raises:
        OSError: no space, no permission, or the file is there already.
    """
    digest, size = hashlib.sha256(), 0
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        for view in _joined(parts):
            digest.update(view)
            size += len(view)
            while view:
                view = view[os.write(descriptor, view[:CHUNK]) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return Written(size, digest.hexdigest())


def _joined(parts: Iterable[bytes | memoryview]) -> Iterator[memoryview]:
    """The same bytes in the same order, small neighbours together."""
    small = bytearray()
    for part in parts:
        view = memoryview(part).cast("B")
        if small and (len(view) >= SMALL or len(small) >= SMALL):
            yield memoryview(small)
            small = bytearray()
        if len(view) >= SMALL:
            yield view
        else:
            small += view
    if small:
        yield memoryview(small)


def hash_file(path: Path) -> Written:
    """Size and SHA-256 of a file as it is on the disk."""
    with path.open("rb", buffering=0) as file:
        digest = hashlib.file_digest(file, "sha256")
        return Written(file.tell(), digest.hexdigest())


def make_directory(path: Path) -> None:
    """Makes a directory whose parent exists, and fsyncs the parent; fine if it is there."""
    try:
        os.mkdir(path)
    except FileExistsError:
        return
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Waits until the names in a directory are on the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(path: Path) -> None:
    """Waits until every file and name below a directory is on the disk."""
    for folder, _, names in os.walk(path):
        for name in names:
            descriptor = os.open(os.path.join(folder, name), os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        sync_directory(Path(folder))


def remove_tree(path: Path) -> None:
    """Removes a directory and all below; fine if it is not there.

    Raises:
        OSError: something could not be removed.
    """
    if path.exists():
        shutil.rmtree(path)
