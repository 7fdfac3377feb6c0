"""Findings about the text of rows as it stands in the file, before it is encoded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tunesmith.data import decode, read, repair
from tunesmith.data.finding import MEND, Finding, Level
from tunesmith.data.unseen import CONTROL, HIDDEN
from tunesmith.recipe.sections import Source

MENDS = "tunesmith data check --fix"
CONVERT = f"tunesmith data convert FILE -o NEW.jsonl, then: {MEND}"
"""For folders and Parquet, which `--fix` does not take."""
LOST = "make the file anew from what it was decoded from: nothing in it says what stood there"


def check(source: Source) -> tuple[Finding, ...]:
    """Reads all rows once and looks for characters that nobody meant to write.

    Raises:
        DataError: D1xx, the file can't be read.
    """
    found: dict[str, list[str]] = {"lost": [], "mojibake": [], "control": [], "hidden": []}
    rows = 0
    for row in read.rows(source.path, max_samples=source.max_samples, on_bad=lambda error: None):
        rows += 1
        for kind in {kind for text in _strings(row.value) for kind in _kinds(text)}:
            found[kind].append(row.where)
    mend = MEND if repair.mends(source.path) else CONVERT
    return (
        _finding(
            "encoding", "replacement characters (U+FFFD): text was lost", found["lost"], rows, LOST
        ),
        _finding(
            "mojibake", f"text decoded wrongly, like `Ã©` ({MENDS})", found["mojibake"], rows, mend
        ),
        _finding(
            "control characters", f"control characters ({MENDS})", found["control"], rows, mend
        ),
        _finding(
            "hidden characters",
            f"BOMs or invisible characters ({MENDS})",
            found["hidden"],
            rows,
            mend,
        ),
    )


def _finding(name: str, what: str, where: list[str], rows: int, fix: str) -> Finding:
    if not where:
        return Finding("OK", name, f"no row has {what.split(':')[0].split(' (')[0]}")
    level: Level = "MAJOR" if len(where) > 0.1 * rows else "MINOR"
    return Finding(
        level, name, f"{len(where):,} of {rows:,} rows have {what}", tuple(where[:5]), fix
    )


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner)


def _kinds(text: str) -> Iterator[str]:
    if text.isascii():  # nearly all there is, and quick to tell
        if CONTROL.search(text):
            yield "control"
        return
    if "\ufffd" in text:
        yield "lost"
    if decode.is_mojibake(text):
        yield "mojibake"
    if CONTROL.search(text):
        yield "control"
    if HIDDEN.search(text):
        yield "hidden"
