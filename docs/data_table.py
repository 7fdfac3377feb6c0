"""Prints the table of real files in docs/data.md: what each is, how many rows, how many are bad.

python docs/data_table.py shared/data
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from pathlib import Path

from tunesmith.data import catalogue, read
from tunesmith.data.formats import base
from tunesmith.errors import DataError
from tunesmith.recipe.sections import DataConfig

FOLDERS = ("instruct", "preference")
PASSED_OVER = {"README.md", "LICENSE"}


def sets() -> Iterator[str]:
    """The table of known sets, line by line."""
    yield "| name | from | licence |"
    yield "|---|---|---|"
    for name, entry in catalogue.known().items():
        hub = entry.get("hf_hub_url")
        place = f"`hf:{hub}`" if hub else f"`{entry['file_name']}` of {entry['page']}"
        yield f"| `{name}` | {place} | {catalogue.about(entry).removeprefix('licence: ')} |"


def lines(top: Path) -> Iterator[str]:
    """The table, line by line."""
    yield "| file | format | rows | samples | bad rows |"
    yield "|---|---|---|---|---|"
    for folder in FOLDERS:
        for path in sorted((top / folder).rglob("*")):
            if path.is_file() and path.name not in PASSED_OVER:
                name = path.relative_to(top).as_posix()
                yield f"| `{name}` | {' | '.join(row(path))} |"


def row(path: Path) -> tuple[str, str, str, str]:
    """Format, rows, samples and bad rows of a file; or why it is refused."""
    problems: list[DataError] = []
    found = read.rows(path, on_bad=problems.append)
    try:
        first = list(itertools.islice(found, 20))
        name = base.detect(first) if first else refuse(problems)
        format, rows, samples = base.load(name), 0, 0
        for one in itertools.chain(first, found):
            rows += 1
            try:
                samples += len(base.samples(format, one, {}, DataConfig()))
            except DataError as error:
                problems.append(error)
    except DataError as error:
        line = error.where.removeprefix(str(path)).strip(":")
        return f"refused, {error.code} at line {line}: {error.what}", "", "", ""
    codes = ", ".join(sorted({error.code for error in problems}))
    bad = f"{len(problems):,} ({codes})" if problems else "0"
    return name, f"{rows:,}", f"{samples:,}", bad


def refuse(problems: list[DataError]) -> str:
    """Raises the first problem of a file without a good row."""
    raise problems[0]


if __name__ == "__main__":
    print("\n".join(lines(Path(sys.argv[1])) if sys.argv[1:] else sets()))
