"""Rows of files and folders: JSON, JSON Lines, CSV, TSV, text, Parquet and Arrow, gzipped or not.

A file is known by its name and checked against its first bytes. Every row knows its file and line.
A bad row is reported; a bad file is an error.
"""

from __future__ import annotations

import gzip
import hashlib
import itertools
import os
import re
import zlib
from collections.abc import Iterator
from importlib.resources import files as resources
from pathlib import Path
from typing import Any, BinaryIO

from tunesmith.data import columnar, corpus, folder_splits, signatures, tables, trees
from tunesmith.data.json_array import json_array
from tunesmith.data.json_rows import (
    MAX_ROW,
    OnBad,
    Row,
    json_lines,
    text_lines,
    too_long,
)
from tunesmith.errors import DataError

KINDS = {
    ".json": "json",
    ".jsonl": "json",
    ".ndjson": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".txt": "text",
    ".md": "text",
    ".parquet": "parquet",
    ".arrow": "arrow",
}
NOTES = frozenset(("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"))
"""What `datasets` and others write about the rows beside them."""
_SEPARATE = "name the files as separate sources; of a set of the hub, its `split`"
__all__ = ["Row", "content_hash", "data_files", "kind_of", "locate", "rows"]


def rows(
    path: str | Path,
    *,
    max_samples: int | None = None,
    whole: bool = False,
    on_bad: OnBad | None = None,
    gather: bool = True,
) -> Iterator[Row]:
    """Rows of a file or folder, in the order of names and lines.

    Args:
        path: File, folder (read recursively, one kind of file), or `builtin:NAME`.
        max_samples: Stop after so many rows.
        whole: Plain text only: each file is one row; else each line that is not blank.
        on_bad: Is told each bad row, which is then skipped; default: the first one is raised.
        gather: Make trees of messages that stand one a row; all of them are then held in memory.

    Raises:
        DataError: D101 to D110, D240, the file or one of its rows can't be read.
        MissingExtra: Parquet or Arrow without pyarrow.
    """
    files = data_files(path)
    found = (row for file in files for row in _rows_of(file, whole, on_bad or _raise))
    found = trees.gathered(found, on_bad or _raise) if gather else found
    yield from itertools.islice(found, max_samples)


def _raise(error: DataError) -> None:
    raise error


def locate(path: str | Path) -> Path:
    """The file or folder itself; `builtin:demo/train.jsonl` names one that ships with tunesmith.

    Raises:
        DataError: D101, nothing is there.
    """
    spec = str(path)
    if spec.startswith("builtin:"):
        assets = Path(str(resources("tunesmith.assets")))
        known = {p.relative_to(assets).as_posix(): p for p in sorted(assets.glob("*/*.jsonl"))}
        name = spec.removeprefix("builtin:")
        if name in known:
            return known[name]
        fix = f"known: {', '.join(f'builtin:{file}' for file in known)}"
        raise DataError("D101", f"no embedded data set is called `{spec}`", fix=fix)
    found = Path(path).expanduser()
    if not found.exists() and not corpus.prefixes(found):
        fix = "check data.train[].path"
        if re.fullmatch(r"[\w.-]+/[\w.-]+", spec) and not kind_of(found):
            fix += f"; a set of the hub is `hf:{spec}`"
        raise DataError("D101", "no such file or folder", where=spec, fix=fix)
    return found


def data_files(path: str | Path) -> list[Path]:
    """The data files below a path, sorted; hidden ones and other kinds of file are passed over.

    Raises:
        DataError: D101, none is there; D104, a folder holds several kinds of data file; D231,
            it holds rows to train on and rows to evaluate with.
    """
    top = locate(path)
    if not top.is_dir():
        return [top]
    found = sorted(p for p in top.rglob("*") if p.is_file() and not _hidden(p, top) and kind_of(p))
    if any(kind_of(p) != "text" for p in found):  # a README.md beside the data is no data
        found = [p for p in found if p.suffix != ".md"]
    found = [p for p in found if p.name not in NOTES] or found
    if not found:
        what = "the folder holds no data files"
        raise DataError("D101", what, where=str(top), fix=f"known: {', '.join(KINDS)} (.gz)")
    kinds = {kind_of(p): p for p in reversed(found)}
    if len(kinds) > 1:
        names = ", ".join(p.relative_to(top).as_posix() for p in kinds.values())
        what = f"the folder mixes kinds of data: {names}"
        raise DataError("D104", what, where=str(top), fix=_SEPARATE)
    folder_splits.check(found, top)
    return found


def _hidden(path: Path, top: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(top).parts)


def kind_of(path: Path) -> str | None:
    """json, csv, tsv, text, parquet or arrow by the file's name; None for other files."""
    name = path.name.lower().removesuffix(".gz")
    return KINDS.get(os.path.splitext(name)[1])


def content_hash(path: str | Path) -> str:
    """SHA-256 over the bytes of all data files below a path, in reading order."""
    digest = hashlib.sha256()
    for file in data_files(path):
        with file.open("rb") as stream:
            part = hashlib.file_digest(stream, "sha256")
        digest.update(f"{kind_of(file)} {file.stat().st_size} {part.hexdigest()}\n".encode())
    return digest.hexdigest()


# ---------------------------------------------------------------- one file


def _rows_of(path: Path, whole: bool, on_bad: OnBad) -> Iterator[Row]:
    kind = kind_of(path)
    if kind is None:
        raise _unknown(path)
    count = line = 0
    bad = 0

    def counted(error: DataError) -> None:
        nonlocal bad
        bad += 1
        on_bad(error)

    try:
        columns = columnar.READERS.get(kind)
        reader = columns(path) if columns else _stream(path, kind, whole, counted)
        for row in reader:
            count, line = count + 1, row.line
            yield row
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        what = f"broken gzip data ({error})"
        raise DataError("D104", what, where=f"{path}:{line + 1}", fix="fetch it again") from None
    except OSError as error:
        what = f"can't be read: {error.strerror or error}"
        raise DataError(
            "D101", what, where=str(path), fix="check the file and its rights"
        ) from None
    if not count and not bad:
        raise DataError("D102", "the file holds no rows", where=f"{path}:1", fix="remove the file")


def _unknown(path: Path) -> DataError:
    """D104: what the file is by its first bytes, or that its name says nothing."""
    with path.open("rb") as stream:
        found = signatures.refused(path, stream.read(signatures.HEAD))
    what = f"unknown kind of file: `{path.suffix or path.name}`"
    return found or DataError("D104", what, where=str(path), fix=f"known: {', '.join(KINDS)} (.gz)")


def _stream(path: Path, kind: str, whole: bool, on_bad: OnBad) -> Iterator[Row]:
    """Opens a text file and reads its rows."""
    with path.open("rb") as raw:
        first = raw.read(signatures.HEAD)
        raw.seek(0)
        zipped = path.name.lower().endswith(".gz")
        if not zipped and (other := signatures.refused(path, first, kind)):
            raise other
        if zipped and first and not first.startswith(b"\x1f\x8b"):
            what = "no gzip data in it"
            raise DataError("D104", what, where=f"{path}:1", fix="rename the file")
        stream: Any = gzip.GzipFile(fileobj=raw) if zipped else raw
        head = stream.read(signatures.HEAD)
        if zipped and (other := signatures.refused(path, head, kind)):
            raise other
        if head.startswith((b"\xff\xfe", b"\xfe\xff")):
            fix = "tunesmith data check FILE --fix -o MENDED, or iconv -f UTF-16 -t UTF-8"
            raise DataError("D103", "the file is UTF-16", where=f"{path}:1", fix=fix)
        stream.seek(0)
        file = str(path)
        if kind == "json":
            reader = json_array if _is_array(stream) else json_lines
            yield from reader(stream, file, on_bad)
        elif kind == "text" and whole:
            yield _document(stream, file)
        elif kind == "text":
            yield from (Row(text, file, n) for n, text in text_lines(stream, file, on_bad))
        else:
            yield from tables.rows(stream, file, kind, on_bad)


def separators(path: str | Path) -> list[str]:
    """What to tell of tables whose columns are not separated as their names say.

    Raises:
        DataError: D101, nothing is there.
    """
    found = []
    for file in data_files(path):
        if (kind := kind_of(file)) in tables.USUAL:
            zipped = file.name.lower().endswith(".gz")
            try:
                with file.open("rb") as raw:
                    stream: Any = gzip.GzipFile(fileobj=raw) if zipped else raw
                    found.append(tables.said(file, stream, kind))
            except (OSError, EOFError, zlib.error):
                continue  # told where its rows are read
    return [text for text in found if text]


def notes(path: str | Path) -> list[str]:
    """What to tell of a source before its rows are read: how its tables are separated, trees that
    are made of its messages, files of a folder that are no rows.

    Raises:
        DataError: D101, nothing is there; D104, D231, what a folder holds.
    """
    try:
        first = next(rows(path, on_bad=lambda error: None, gather=False), None)
    except DataError:
        first = None  # told where its rows are read
    gathers = first is not None and trees.is_message(first.value)
    found = separators(path) + ([f"{path}: {trees.SAID}"] if gathers else [])
    if passed := _passed_over(locate(path)):
        more = f" and {len(passed) - 5:,} more" if len(passed) > 5 else ""
        count = f"{len(passed):,} file{'s' * (len(passed) > 1)}"
        found.append(f"{path}: {count} passed over, no rows: {', '.join(passed[:5])}{more}")
    return found


def _passed_over(top: Path) -> list[str]:
    """Files of a folder that somebody may take for data, and that are not read."""
    if not top.is_dir():
        return []
    read = set(data_files(top))
    return [
        p.relative_to(top).as_posix()
        for p in sorted(top.rglob("*"))
        if p.is_file() and p not in read and not _hidden(p, top) and not _is_about(p)
    ]


def _is_about(path: Path) -> bool:
    """Whether a file says something about the data beside it."""
    name = path.name.upper()
    return path.name in NOTES or path.suffix == ".md" or name.startswith(("README", "LICENSE"))


def _is_array(stream: BinaryIO) -> bool:
    """Whether the first character is `[`: names don't say, `.json` often holds JSON Lines."""
    head = b""
    while not head and (chunk := stream.read(4096)):
        head = chunk.removeprefix(b"\xef\xbb\xbf").lstrip()
    stream.seek(0)
    return head.startswith(b"[")


def _document(stream: BinaryIO, file: str) -> Row:
    raw = stream.read(MAX_ROW + 1)
    if len(raw) > MAX_ROW:
        raise too_long(f"{file}:1")
    collected: list[DataError] = []
    lines = list(tables.lines_of(raw, file, collected))
    if collected:
        raise collected[0]
    if not lines:
        raise DataError("D102", "the file holds no text", where=f"{file}:1", fix="remove the file")
    text = raw.decode("utf-8-sig").replace("\r\n", "\n")
    return Row(text, file, 1)
