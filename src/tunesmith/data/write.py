"""Rows to a file, by its name: JSON Lines, a JSON array, CSV, TSV, text or Parquet, gzipped or not.

The file is written aside and renamed: it is there whole or not at all.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from tunesmith.data.read import KINDS, kind_of
from tunesmith.errors import ConfigError, DataError, MissingExtra

Value = Mapping[str, Any] | str
Put = Callable[[Value], None]


def check_target(path: Path, *, replace: bool, sources: tuple[Path, ...] = ()) -> None:
    """Refuses a place that can't be written to, before any work.

    Raises:
        DataError: D104, the name says no known kind of file.
        ConfigError: C212, something is there already, or it is what is being read.
    """
    if not can_write(path):
        what = f"no kind of file that can be written: `{path.suffix or path.name}`"
        known = ", ".join(name for name, kind in KINDS.items() if kind != "arrow")
        raise DataError("D104", what, where=str(path), fix=f"known: {known} (.gz)")
    if any(path.exists() and path.samefile(source) for source in sources):
        fix = "write to another file"
        raise ConfigError("C212", "the output is what is being read", where=str(path), fix=fix)
    if path.exists() and not replace:
        fix = "choose another name, or --yes to replace it"
        raise ConfigError("C212", "the output is there already", where=str(path), fix=fix)


def can_write(path: Path) -> bool:
    """Whether the name says a kind of file that can be written."""
    return kind_of(path) not in (None, "arrow")


@contextmanager
def writer(path: Path) -> Iterator[Put]:
    """A function that takes one row after the other; the file appears when all are written.

    Raises:
        DataError: D104, an unknown kind of file; D111, a row that this kind of file can't hold.
        MissingExtra: Parquet without pyarrow.
    """
    kind = kind_of(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        if kind == "parquet":
            with _parquet(aside, path) as put:
                yield put
        else:
            with _open(aside, zipped=path.name.lower().endswith(".gz")) as stream:
                lines = ".json" not in path.suffixes[-2:]
                with _text_rows(stream, kind, path, lines=lines) as put:
                    yield put
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def _open(path: Path, *, zipped: bool) -> Iterator[TextIO]:
    """UTF-8 without BOM, LF; a gzip header without name and time, so that equal rows give equal
    bytes."""
    with path.open("wb") as raw:
        if zipped:
            with (
                gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=0) as packed,
                io.TextIOWrapper(packed, encoding="utf-8", newline="\n") as stream,
            ):
                yield stream
        else:
            with io.TextIOWrapper(raw, encoding="utf-8", newline="\n") as stream:
                yield stream
                stream.flush()
                os.fsync(raw.fileno())


@contextmanager
def _text_rows(stream: TextIO, kind: str | None, path: Path, *, lines: bool) -> Iterator[Put]:
    if kind in ("csv", "tsv"):
        yield _table(stream, "\t" if kind == "tsv" else ",", path)
    elif kind == "text":
        yield lambda value: _line(stream, value, path)
    elif lines:
        yield lambda value: _ignore(stream.write(_json(value) + "\n"))
    else:
        begun = False

        def element(value: Value) -> None:
            nonlocal begun
            stream.write((",\n" if begun else "[\n") + _json(value))
            begun = True

        yield element
        stream.write("\n]\n" if begun else "[]\n")


def _ignore(value: object) -> None:
    return None


def _json(value: Value) -> str:
    row = {"text": value} if isinstance(value, str) else dict(value)
    return json.dumps(row, ensure_ascii=False, allow_nan=False, default=str)


def _line(stream: TextIO, value: Value, path: Path) -> None:
    text = value if isinstance(value, str) else value.get("text")
    if not isinstance(text, str) or (not isinstance(value, str) and set(value) != {"text"}):
        raise _cant(
            path, "a text file holds one text a line, this row has columns", "name it .jsonl"
        )
    if "\n" in text or "\r" in text:
        raise _cant(
            path, "the text has several lines, a text file holds one a row", "name it .jsonl"
        )
    stream.write(text + "\n")


def _table(stream: TextIO, delimiter: str, path: Path) -> Put:
    """The first row names the columns; a later row may leave some out, not bring new ones."""
    out = csv.writer(stream, delimiter=delimiter, lineterminator="\n")
    columns: list[str] = []

    def put(value: Value) -> None:
        row = {"text": value} if isinstance(value, str) else value
        if not columns:
            columns.extend(row)
            out.writerow(columns)
        if extra := [name for name in row if name not in columns]:
            what = f"column `{extra[0]}` is not in the first row"
            raise _cant(path, what, "name it .jsonl, or give every row the same columns")
        if nested := [name for name, v in row.items() if isinstance(v, list | dict)]:
            what = f"`{nested[0]}` is a list or an object, which a table can't hold"
            raise _cant(path, what, "name it .jsonl, or --to prompt_completion")
        out.writerow(["" if row.get(name) is None else row.get(name) for name in columns])

    return put


@contextmanager
def _parquet(aside: Path, path: Path) -> Iterator[Put]:
    try:
        import pyarrow as arrow
        import pyarrow.parquet as parquet
    except ImportError:
        raise MissingExtra("pyarrow", "hub", "writing Parquet") from None
    waiting: list[dict[str, Any]] = []
    out: Any = None

    def flush() -> None:
        nonlocal out
        try:
            table = arrow.Table.from_pylist(waiting, schema=out.schema if out else None)
        except (arrow.ArrowInvalid, arrow.ArrowTypeError) as error:
            raise _cant(
                path, f"the rows don't share column types: {error}", "name it .jsonl"
            ) from None
        out = out or parquet.ParquetWriter(aside, table.schema)
        out.write_table(table)
        waiting.clear()

    def put(value: Value) -> None:
        waiting.append({"text": value} if isinstance(value, str) else dict(value))
        if len(waiting) == 10_000:
            flush()

    yield put
    if waiting or out is None:
        flush()
    if out is not None:
        out.close()


def _cant(path: Path, what: str, fix: str) -> DataError:
    return DataError("D111", what, where=str(path), fix=fix)
