"""A damaged data file into a good one: encoding, line ends, JSON, empty rows; nothing is guessed.

What was done is counted by kind. What can't be mended is not written; it is listed, and kept beside
the output as `OUT.rejected.txt`.
"""

from __future__ import annotations

import csv
import gzip
import itertools
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from tunesmith.data import columnar, decode, mend, read, tables, write
from tunesmith.data.formats import base as formats
from tunesmith.data.json_rows import Row, line_and_row, where
from tunesmith.errors import DataError
from tunesmith.recipe.sections import DataConfig, Source

LISTED = 1000
LOOK_AT = 20
OBJECT_LINES = 1000
"""Lines that one object may go over among others."""


class Rejected(NamedTuple):
    """A row that can't be mended."""

    place: int
    """`Row.place`: the line, and the number of the row in an array."""
    code: str
    reason: str
    text: str


def repair(source: Source, out: Path, config: DataConfig | None = None) -> dict[str, Any]:
    """Writes what a file holds as rows that can be read.

    A JSON array and a text file in UTF-16 are held in memory; JSON Lines, text and tables are not.

    Args:
        source: The file; its format is detected after mending.
        out: Where the rows go.
        config: How rows are read.

    Returns:
        rows, written, repairs by kind, rejected rows (the first of them), and their number.

    Raises:
        DataError: D101, D104 it can't be opened; D102, nothing is left.
    """
    path = read.locate(source.path)
    if not mends(source.path):
        what = "only a single JSON, CSV, TSV or text file can be mended"
        raise DataError("D112", what, where=str(path), fix="name the files one by one")
    repairs: Counter[str] = Counter()
    rejected: list[Rejected] = []
    rows = _rows(path, repairs, rejected)
    first = list(itertools.islice(rows, LOOK_AT))
    if not first:
        what = "nothing in the file can be mended"
        raise DataError("D102", what, where=f"{path}:1", fix="look at it with an editor")
    parse = _parser(source, first, config or DataConfig())
    written = 0
    rejects = out.with_name(f"{out.name}.rejected.txt")
    with write.writer(out) as put:
        for row in itertools.chain(first, rows):
            try:
                parse(row)
            except DataError as error:
                rejected.append(Rejected(row.place, error.code, error.what, str(row.value)))
                continue
            put(row.value)
            written += 1
    rejects.unlink(missing_ok=True)
    if rejected:
        lines = (f"{where(str(path), r.place)}: {r.reason}\n{r.text}\n\n" for r in sorted(rejected))
        rejects.write_text("".join(lines), encoding="utf-8", errors="replace")
    listed = [
        {"where": where(str(path), r.place), "code": r.code, "reason": r.reason}
        for r in sorted(rejected)[:LISTED]
    ]
    return {
        "rows": written + len(rejected) + repairs["empty rows removed"],
        "written": written,
        "repairs": {kind: count for kind, count in sorted(repairs.items()) if count},
        "rejected": len(rejected),
        "problems": listed,
        "rejects": str(rejects) if rejected else None,
    }


def mends(path: str) -> bool:
    """Whether this is a kind of file that `repair` takes: a single one of text."""
    found = read.locate(path)
    return not found.is_dir() and read.kind_of(found) not in columnar.READERS


def _parser(source: Source, first: list[Row], config: DataConfig) -> Any:
    """Reads a mended row as its format does; rows of no known format are passed as they are."""
    try:
        name = source.format or formats.detect(first, source.columns)
    except DataError:
        return lambda row: row
    module = formats.load(name)
    return lambda row: formats.samples(module, row, source.columns or {}, config)


def _rows(path: Path, repairs: Counter[str], rejected: list[Rejected]) -> Iterator[Row]:
    kind = read.kind_of(path)
    with path.open("rb") as raw:
        zipped = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        stream: Any = gzip.GzipFile(fileobj=raw) if zipped else raw
        if kind in ("csv", "tsv"):
            yield from _table(stream, path, kind, repairs, rejected)
        elif kind == "text":
            yield from _texts(stream, path, repairs)
        else:
            yield from _objects(stream, path, repairs, rejected)


def _texts(stream: BinaryIO, path: Path, repairs: Counter[str]) -> Iterator[Row]:
    for number, text in decode.lines(stream, repairs):
        meant = mend.cleaned(text, repairs)
        if not meant.strip():
            repairs["empty rows removed"] += 1
            continue
        yield Row(meant, str(path), number)


def _objects(
    stream: BinaryIO, path: Path, repairs: Counter[str], rejected: list[Rejected]
) -> Iterator[Row]:
    """JSON Lines where the first line that is not blank holds a whole object; else an array."""
    numbered = decode.lines(stream, repairs)
    head: list[tuple[int, str]] = []
    for number, text in numbered:
        head.append((number, text))
        if text.strip():
            break
    first = head[-1][1].strip() if head else ""
    rest = itertools.chain(head, numbered)
    if first.startswith("{") and first.rstrip(",").endswith("}"):
        for number, text in _whole(rest, repairs):
            if text.strip():
                yield from _mended(text, number, path, repairs, rejected)
            else:
                repairs["empty rows removed"] += 1
        return
    if not first.startswith("["):
        repairs["objects over several lines"] += 1
    whole = "\n".join(text for _, text in rest)
    line, passed, end = 1, 0, 0
    numbered, last = False, 0
    for number, (at, text) in enumerate(mend.elements(whole), 1):
        line += whole.count("\n", passed, at)
        passed, end = at, at + len(text)
        numbered = numbered or line == 1  # as `json_rows.json_array` numbers them
        place = Row("", "", line, number if numbered or line == last else 0).place
        last = line
        yield from _mended(text, place, path, repairs, rejected)
    if first.startswith("[") and whole[end:].strip() != "]":
        repairs["end of the array mended"] += 1


def _whole(numbered: Iterator[tuple[int, str]], repairs: Counter[str]) -> Iterator[tuple[int, str]]:
    """Lines, an object that goes over several of them as one.

    One that does not end before another begins, or in so many lines, is left as it is.
    """
    held: list[tuple[int, str]] = []
    for number, text in numbered:
        if held and (text.startswith("{") or len(held) >= OBJECT_LINES):
            yield from held
            held = []
        if not held and (not text.startswith("{") or text.rstrip(" \t\r,").endswith("}")):
            yield number, text
            continue
        held.append((number, text))
        whole = "\n".join(line for _, line in held)
        if text.rstrip(" \t\r,").endswith("}") and _is_object(whole.rstrip(" \t\r,")):
            repairs["objects over several lines"] += 1
            yield held[0][0], whole
            held = []
    yield from held


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text, strict=False), dict)
    except (ValueError, RecursionError):
        return False


def _mended(
    text: str, place: int, path: Path, repairs: Counter[str], rejected: list[Rejected]
) -> Iterator[Row]:
    try:
        for value in mend.values(text, repairs):
            yield Row(value, str(path), *line_and_row(place))
    except mend.CantMend as problem:
        rejected.append(Rejected(place, problem.code, problem.reason, text))


def _table(
    stream: BinaryIO, path: Path, kind: str, repairs: Counter[str], rejected: list[Rejected]
) -> Iterator[Row]:
    lines = (text + "\n" for _, text in decode.lines(stream, repairs))
    header, lines = tables.first_of(lines)
    delimiter = tables.delimiter(header, kind)
    reader = csv.reader(lines, delimiter=delimiter)
    columns = next(reader, [])
    line = reader.line_num + 1
    for values in reader:
        if not any(value.strip() for value in values):
            repairs["empty rows removed"] += 1
        elif len(values) != len(columns):
            reason = f"{len(values)} fields, but {len(columns)} columns"
            rejected.append(Rejected(line, "D110", reason, delimiter.join(values)))
        else:
            row = {
                name: mend.cleaned(value, repairs)
                for name, value in zip(columns, values, strict=True)
            }
            yield Row(row, str(path), line)
        line = reader.line_num + 1
