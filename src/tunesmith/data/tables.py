"""CSV and TSV: the first record names the columns; values are strings.

What separates the columns is seen in the first line, not taken from the name alone: spreadsheets
write semicolons, or tabs, into files they call `.csv`.
"""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from tunesmith.data.json_rows import MAX_ROW, OnBad, Row, text_lines, too_long
from tunesmith.errors import DataError

USUAL = {"csv": ",", "tsv": "\t"}
OTHERS = (",", ";", "\t", "|")
SPOKEN = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars (|)"}


_NAMES = "name each column once; pandas leaves its index out with to_csv(…, index=False)"


def delimiter(header: str, kind: str) -> str:
    """What separates the columns of a table.

    The character its kind of file usually has, if it stands in the first line at all (outside
    quotes); else, of `,` `;` tab `|`, the one that stands there most often, provided that it leaves
    every column a name of its own. A table of one column has none of them.

    Args:
        header: The first line.
        kind: csv or tsv.
    """
    usual = USUAL[kind]
    counts = {one: _fields(header, one) for one in (usual, *OTHERS)}
    best = max(OTHERS, key=lambda one: len(counts[one]))  # the first of equals
    names = counts[best]
    if len(counts[usual]) > 1 or len(names) < 2 or len(set(names)) < len(names) or not all(names):
        return usual
    return best


def _fields(header: str, separator: str) -> list[str]:
    try:
        return next(csv.reader([header.rstrip("\r\n")], delimiter=separator, strict=True), [])
    except csv.Error:
        return []


def said(path: Path, stream: BinaryIO, kind: str) -> str:
    """What to tell of a table whose columns are separated by something unusual; else empty."""
    header = stream.readline(MAX_ROW).decode("utf-8-sig", errors="replace")
    found = delimiter(header, kind)
    if found == USUAL[kind]:
        return ""
    return f"{path}: columns separated by {SPOKEN[found]}, as its first line says"


def rows(stream: BinaryIO, file: str, kind: str, on_bad: OnBad) -> Iterator[Row]:
    """The rows of a table; line ends within cells are LF. A row with a bad line is bad as a whole.

    Raises:
        DataError: D110, what is no table; D108, as for text; D103, D109 in the names of columns.
    """
    csv.field_size_limit(MAX_ROW)
    bad: list[DataError] = []  # of the lines read since the last row
    lines = _lines(stream, file, bad)
    header = next(lines, "")
    found = delimiter(header, kind)
    reader = csv.reader(itertools.chain([header], lines), delimiter=found, strict=True)
    start = 1
    try:
        columns = next(reader, [])
        if bad:
            raise bad[0]
        if len(set(columns)) != len(columns) or not all(columns):
            what = f"columns without a name or with the same name: {', '.join(columns)}"
            raise DataError("D110", what, where=f"{file}:1", fix=_NAMES)
        start = reader.line_num + 1
        for values in reader:
            if bad:
                on_bad(bad[0])
                bad.clear()
            elif len(values) == len(columns):
                yield Row(dict(zip(columns, values, strict=True)), file, start)
            elif values:
                on_bad(_uneven(len(values), len(columns), found, f"{file}:{start}"))
            start = reader.line_num + 1
    except csv.Error as error:
        if bad:
            raise bad[0] from None
        fix = "check the quotes of this record and the one before"
        raise DataError("D110", f"not CSV: {error}", where=f"{file}:{start}", fix=fix) from None


def _uneven(fields: int, columns: int, separator: str, where: str) -> DataError:
    what = f"{fields} fields, but {columns} columns are named in line 1 (by {SPOKEN[separator]})"
    fix = f"put fields that hold {SPOKEN[separator]} in double quotes, or remove the row"
    return DataError("D110", what, where=where, fix=fix)


def _lines(stream: BinaryIO, file: str, bad: list[DataError]) -> Iterator[str]:
    """Lines with their ends, CRLF as LF; blank ones too, which may belong to a quoted field, and
    bad ones, which may begin or end one."""
    number = 0
    while raw := stream.readline(MAX_ROW + 1):
        number += 1
        if len(raw) > MAX_ROW:
            raise too_long(f"{file}:{number}")
        collected: list[DataError] = []
        for _ in lines_of(raw, file, collected):
            pass
        for error in collected:  # the line was number 1 of the bytes it was given
            where = f"{file}:{number}"
            bad.append(DataError(error.code, error.what, where=where, fix=error.fix))
        text = raw.decode("utf-8-sig" if number == 1 else "utf-8", errors="replace")
        text = text.replace("\0", "\ufffd") if collected else text
        yield text[:-2] + "\n" if text.endswith("\r\n") else text


def lines_of(raw: bytes, file: str, collected: list[DataError]) -> Iterator[tuple[int, str]]:
    """`text_lines` of bytes in memory; errors are collected."""
    return text_lines(io.BytesIO(raw), file, collected.append)


def first_of(lines: Iterable[str]) -> tuple[str, Iterator[str]]:
    """The first line, and all lines."""
    rest = iter(lines)
    head = next(rest, "")
    return head, itertools.chain([head] if head else [], rest)
