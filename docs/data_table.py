"""Prints the table of real files in docs/data.md: what each is, how many rows, how many are bad.

python docs/data_table.py shared/data
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from pathlib import Path

from tunesmith.compose.samples_of import conversations
from tunesmith.data import catalogue, read
from tunesmith.data.formats import base
from tunesmith.errors import DataError
from tunesmith.recipe.sections import DataConfig
from tunesmith.types import Document, Message, Sample, ToolCall

FOLDERS = ("instruct", "preference", "text")
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
    yield "| file | format | rows | samples | trained | bad rows |"
    yield "|---|---|---|---|---|---|"
    for folder in FOLDERS:
        for path in sorted((top / folder).rglob("*")):
            if path.is_file() and path.name not in PASSED_OVER:
                name = path.relative_to(top).as_posix()
                yield f"| `{name}` | {' | '.join(row(path))} |"


def row(path: Path) -> tuple[str, ...]:
    """Format, rows, samples, trained share and bad rows of a file; or why it is refused."""
    problems: list[DataError] = []
    found = read.rows(path, on_bad=problems.append)
    try:
        first = list(itertools.islice(found, 20))
        name = base.detect(first) if first else refuse(problems)
        format, rows, samples = base.load(name), 0, 0
        said, trained = 0, 0
        for one in itertools.chain(first, found):
            rows += 1
            try:
                for sample in base.samples(format, one, {}, DataConfig()):
                    samples += 1
                    said, trained = (
                        a + b for a, b in zip((said, trained), share(sample), strict=True)
                    )
            except DataError as error:
                problems.append(error)
    except DataError as error:
        line = error.where.removeprefix(str(path)).strip(":")
        place = f" at line {line}" if line else ""
        return f"refused, {error.code}{place}: {error.what}", "", "", "", ""
    codes = ", ".join(sorted({error.code for error in problems}))
    bad = f"{len(problems):,} ({codes})" if problems else "0"
    part = f"{trained / said:.0%}" if said else ""
    return name, f"{rows:,}", f"{samples:,}", part, bad


def share(sample: Sample) -> tuple[int, int]:
    """Characters that are said in a sample, and those of them that are trained."""
    if isinstance(sample, Document):
        return len(sample.text), len(sample.text)
    parts: list[tuple[Message, bool]] = []
    for conversation in conversations(sample):
        parts += [(message, message.role == "assistant") for message in conversation.messages]
    return sum(size(m) for m, _ in parts), sum(size(m) for m, mine in parts if mine)


def size(message: Message) -> int:
    """Characters of a message, with its tool calls and thoughts."""
    count = 0
    for part in message.parts:
        if isinstance(part, ToolCall):
            count += len(part.name) + len(part.arguments)
        else:
            count += len(part.text)
    return count


def refuse(problems: list[DataError]) -> str:
    """Raises the first problem of a file without a good row."""
    raise problems[0]


if __name__ == "__main__":
    print("\n".join(lines(Path(sys.argv[1])) if sys.argv[1:] else sets()))
