"""What a file is by its first bytes, where its name says something else."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from tunesmith.errors import DataError


class Kind(NamedTuple):
    """A kind of file that is no rows of text."""

    begins: bytes
    name: str
    fix: str


_UNPACK = "unpack it, and name the file or folder that was in it"
KINDS = (
    Kind(b"PK\x03\x04", "a ZIP archive (or an Excel or Word file)",
         "unzip it; of Excel, save each sheet as CSV (UTF-8)"),
    Kind(b"\xd0\xcf\x11\xe0", "an old Excel or Word file", "save each sheet as CSV (UTF-8)"),
    Kind(b"\x1f\x8b", "gzip data", "name it with .gz at the end, such as rows.jsonl.gz"),
    *(Kind(b"BZh%d1AY&SY" % level, "bzip2 data", f"bunzip2: {_UNPACK}") for level in range(1, 10)),
    Kind(b"\xfd7zXZ\x00", "xz data", f"unxz: {_UNPACK}"),
    Kind(b"\x28\xb5\x2f\xfd", "Zstandard data", f"zstd -d: {_UNPACK}"),
    Kind(b"7z\xbc\xaf", "a 7-Zip archive", _UNPACK),
    Kind(b"Rar!\x1a\x07", "a RAR archive", _UNPACK),
    Kind(b"PAR1\x15", "Parquet", "rename it to end in .parquet"),
    Kind(b"ARROW1\x00\x00", "Arrow", "rename it to end in .arrow"),
    Kind(b"%PDF", "a PDF document", "extract its text: pdftotext FILE.pdf FILE.txt"),
    Kind(b"SQLite format 3\x00", "an SQLite database", "export a table of it as CSV"),
    Kind(b"\x89HDF", "an HDF5 file", "export it as Parquet or CSV"),
    Kind(b"version https://git-lfs", "a pointer of Git LFS, and not the data",
         "fetch the data: git lfs pull"),
    Kind(b"<!DOCTYPE html", "a web page", "fetch the file itself: the address gave a page"),
    Kind(b"<!doctype html", "a web page", "fetch the file itself: the address gave a page"),
    Kind(b"<html", "a web page", "fetch the file itself: the address gave a page"),
)  # fmt: skip
HEAD = 32
"""Bytes that tell."""


def refused(path: Path, head: bytes, kind: str | None = None) -> DataError | None:
    """D104, where the first bytes are those of something else than rows of text.

    Args:
        path: The file.
        head: Its first bytes.
        kind: What its name says; plain text may well be a page of the web.
    """
    for other in KINDS:
        if head.startswith(other.begins) and not (kind == "text" and other.begins[:1] == b"<"):
            return DataError("D104", f"the file is {other.name}", where=f"{path}:1", fix=other.fix)
    return None
