"""Rows of files that keep columns: Parquet, and Arrow as `datasets.save_to_disk` writes it.

A row's line is its number in the file, from 1. A batch is in memory at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tunesmith.data.json_rows import Row
from tunesmith.errors import DataError, MissingExtra

ROWS = 1024
"""Rows made of columns at once."""


def parquet(path: Path) -> Iterator[Row]:
    """Rows of a Parquet file.

    Raises:
        DataError: D104, it is none.
        MissingExtra: no pyarrow.
    """
    return _rows("Parquet", path, _of_parquet)


def arrow(path: Path) -> Iterator[Row]:
    """Rows of a file of Arrow's streaming or file format; mapped, so that little is in memory.

    Raises:
        DataError: D104, it is none.
        MissingExtra: no pyarrow.
    """
    return _rows("Arrow", path, _of_arrow)


def _rows(kind: str, path: Path, batches: Callable[[Path], Iterator[Any]]) -> Iterator[Row]:
    try:
        import pyarrow
    except ImportError:
        raise MissingExtra("pyarrow", "hub", f"reading {kind}") from None
    try:
        yield from _numbered(batches(path), path)
    except (pyarrow.ArrowException, OSError) as error:
        raise _damaged(kind, path, error) from None


def _of_parquet(path: Path) -> Iterator[Any]:
    from pyarrow.parquet import ParquetFile

    yield from ParquetFile(path).iter_batches(batch_size=ROWS)


def _of_arrow(path: Path) -> Iterator[Any]:
    import pyarrow

    with pyarrow.memory_map(str(path)) as source:
        if source.read(6) == b"ARROW1":
            with pyarrow.ipc.open_file(source) as file:
                yield from _small(file.get_batch(i) for i in range(file.num_record_batches))
        else:
            source.seek(0)
            with pyarrow.ipc.open_stream(source) as stream:
                yield from _small(stream)


def _small(batches: Iterable[Any]) -> Iterator[Any]:
    for batch in batches:
        yield from (batch.slice(start, ROWS) for start in range(0, batch.num_rows, ROWS))


def _numbered(batches: Iterable[Any], path: Path) -> Iterator[Row]:
    number = 0
    for batch in batches:
        for value in batch.to_pylist():
            number += 1
            yield Row(value, str(path), number)


def _damaged(kind: str, path: Path, error: Exception) -> Exception:
    """What Arrow makes of a file cut short is an OSError without a number of the system's."""
    if isinstance(error, OSError) and error.errno is not None:
        return error
    what = f"not {kind}: {error}"
    return DataError("D104", what, where=str(path), fix="check the file's name, or fetch it again")


READERS: Mapping[str, Callable[[Path], Iterator[Row]]] = {"parquet": parquet, "arrow": arrow}
"""By `read.kind_of`."""
