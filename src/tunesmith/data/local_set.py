"""A folder on this machine as a data set with splits: what `hf download` or `save_to_disk` left.

A folder of `DatasetDict.save_to_disk` has a folder for each split. Elsewhere splits and subsets
stand in a README.md or in names of files, as on the hub, and `datasets` knows how; what it reads is
copied once to JSON Lines, found again by the content of the folder.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from tunesmith.data import hub
from tunesmith.errors import ConfigError, DataError, TunesmithError
from tunesmith.recipe.sections import Source

DICT = "dataset_dict.json"
"""Beside the folders of a DatasetDict."""
SAVED = "state.json"
"""Beside the files of one Dataset."""
Say = Callable[[str, str], None]


def chosen(source: Source, home: Path, say: Say) -> Source:
    """The source with the file or folder of one split in the place of the folder; others as they
    are.

    Args:
        source: A path on this machine.
        home: Copies are kept in `home/data`.
        say: Is told what was chosen.

    Raises:
        ConfigError: C105, a split or subset of what has none.
        DataError: D231, several splits and none named; D232, no such split or subset.
        MissingExtra: a split of files, without the package `datasets`.
    """
    folder = Path(source.path).expanduser()
    if (folder / DICT).is_file():
        path = _of_dict(source, folder)
        if source.split is None:
            say("data", f"{source.path}: the split {path.name}, its only one")
    elif folder.is_dir() and (source.split, source.subset) != (None, None):
        if (folder / SAVED).is_file():
            what = f"{source.path} is one data set of save_to_disk: it has no splits and subsets"
            fix = "remove `split` and `subset`"
            raise ConfigError("C105", what, where="data.train", fix=fix)
        path = _copy(source, folder, home, say)
    else:
        return source
    return dataclasses.replace(source, path=str(path), split=None, subset=None)


def _of_dict(source: Source, folder: Path) -> Path:
    if source.subset is not None:
        what = f"`subset` means nothing for {source.path}, which save_to_disk wrote"
        raise ConfigError("C105", what, where="data.train", fix="remove `subset`")
    try:
        splits = [str(name) for name in json.loads((folder / DICT).read_text("utf-8"))["splits"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        what = f"not a folder of save_to_disk: {error}"
        fix = "save it again"
        raise DataError("D212", what, where=str(folder / DICT), fix=fix) from None
    known = ", ".join(splits)
    if source.split is None and len(splits) != 1:
        what = f"the folder holds several splits: {known}"
        first = splits[0] if splits else "train"
        fix = f"'data.train={{path: {folder}, split: {first}}}', or name {folder / first}"
        raise DataError("D231", what, where=str(folder), fix=fix)
    name = source.split or splits[0]
    if name not in splits or not (folder / name).is_dir():
        what, fix = f"the folder has no split `{name}`", f"its splits: {known}"
        raise DataError("D232", what, where=str(folder), fix=fix)
    return folder / name


def _copy(source: Source, folder: Path, home: Path, say: Say) -> Path:
    split = source.split or "train"
    shown = f"{source.path}[{f'{source.subset}, ' if source.subset else ''}{split}]"
    target = home / "data" / "local" / f"{_digest(source, folder, split)}.jsonl"
    if not target.is_file():
        rows = _told(source, folder, lambda: hub.of_folder(source, folder, split))
        aside = target.with_suffix(f".tmp-{os.getpid()}")
        try:
            count = _told(source, folder, lambda: hub.write_rows(aside, rows))
            aside.replace(target)
        finally:
            with suppress(OSError):
                aside.unlink()
        say("data", f"{shown}: {count:,} rows → {target}")
    else:
        say("data", f"{shown}: {target}")
    return target


def _digest(source: Source, folder: Path, split: str) -> str:
    """Of the content of all files below, and of what is chosen."""
    digest = hashlib.sha256(json.dumps([source.subset, split]).encode())
    for file in sorted(folder.rglob("*")):
        inner = file.relative_to(folder)
        if file.is_file() and not any(part.startswith(".") for part in inner.parts):
            with file.open("rb") as stream:
                part = hashlib.file_digest(stream, "sha256").hexdigest()
            digest.update(f"{inner.as_posix()} {part}\n".encode())
    return digest.hexdigest()[:32]


def _told(source: Source, folder: Path, ask: Callable[[], Any]) -> Any:
    """What `datasets` answers; its errors as ours.

    Raises:
        DataError: D232.
    """
    try:
        return ask()
    except (MemoryError, TunesmithError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk's, not that package's own
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        what = f"{source.path} can't be read as a data set: {first}"
        fix = "name split: and subset: as its README.md does, or one of its files"
        raise DataError("D232", what, where=str(folder), fix=fix) from error
