"""Rows from a function of the user's own: `rows.py:function`. That code runs, so it is said."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import os
import runpy
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from tunesmith.data import hub
from tunesmith.errors import DataError, TunesmithError
from tunesmith.recipe.sections import Source

Say = Callable[[str, str], None]


def is_one(path: str) -> bool:
    """Whether a path names a function of a Python file."""
    file, colon, function = path.rpartition(":")
    return bool(colon) and file.endswith(".py") and function.isidentifier()


def made(source: Source, home: Path, say: Say) -> Source:
    """Calls the function without arguments and keeps the rows it yields as JSON Lines.

    Raises:
        DataError: D134, there is no such function, it fails, or it yields no rows.
    """
    file, _, name = source.path.rpartition(":")
    say("data", f"{source.path}: running your code")
    folder = home / "data" / "functions"
    aside = folder / f"rows.tmp-{os.getpid()}"
    try:
        found = itertools.islice(_call(file, name, source.path), source.max_samples)
        count = hub.write_rows(aside, (_row(row, source.path) for row in found))
        if not count:
            raise _failed(source.path, "it yields no rows")
        with aside.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        target = folder / f"{Path(file).stem}-{name}-{digest[:12]}.jsonl"
        aside.replace(target)
    except TunesmithError:
        raise
    except Exception as error:
        raise _failed(source.path, f"{type(error).__name__}: {error}") from error
    finally:
        with suppress(OSError):
            aside.unlink()
    say("data", f"{source.path}: {count:,} rows → {target}")
    return dataclasses.replace(source, path=str(target))


def _call(file: str, name: str, shown: str) -> Any:
    path = Path(file).expanduser()
    if not path.is_file():
        raise _failed(shown, f"there is no file {path}")
    folder = str(path.resolve().parent)
    sys.path.insert(0, folder)  # as `python rows.py` would
    try:
        function = runpy.run_path(str(path), run_name=path.stem).get(name)
        if not callable(function):
            raise _failed(shown, f"{path.name} has no function `{name}`")
        rows: Any = function()
        yield from rows
    finally:
        sys.path.remove(folder)


def _row(row: Any, shown: str) -> Any:
    if not isinstance(row, dict | str):
        raise _failed(shown, f"it yields {type(row).__name__}, not dicts or texts")
    return row


def _failed(shown: str, why: str) -> DataError:
    fix = "let the function yield dicts, one a row"
    return DataError("D134", f"{shown} gives no rows: {why}", where=shown, fix=fix)
