"""Documents of a corpus: rows of most files, lines or paragraphs of text files, in batches.

In a text file either each line is a document, or a blank line ends one; which of the two is said,
and found where the user doesn't say it. A document has a largest length, as a row has: a tokenizer
takes some 70 bytes for each of its characters.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

from tunesmith.data import read, rewrite
from tunesmith.data.json_rows import MAX_ROW, Row, where
from tunesmith.errors import DataError
from tunesmith.recipe.sections import Source
from tunesmith.types import Document

Divided = Literal["auto", "lines", "paragraphs"]
BATCH_CHARACTERS = 2_000_000
"""Text handed on at once: what is in memory at a time."""
LOOK_AT = 1_000
"""Lines among which a blank one says that a file has paragraphs."""
OPTION = "--documents"


def batches(
    sources: Sequence[Source], divided: Divided, say: Callable[[str, str], None]
) -> Iterator[list[str]]:
    """Documents of all sources, about BATCH_CHARACTERS at a time.

    Args:
        sources: Files and folders.
        divided: What is a document in a text file; auto: paragraphs if one of the first lines of
            the source is blank, else lines, as in training.
        say: Is told (topic, text) what auto found.

    Raises:
        DataError: D1xx; D205, rows that are no documents; D230, a paragraph of enormous length.
    """
    batch: list[str] = []
    characters = 0
    for source in sources:
        for text in _of(source, divided, say):
            batch.append(text)
            characters += len(text)
            if characters > BATCH_CHARACTERS:
                yield batch
                batch, characters = [], 0
    if batch:
        yield batch


def _of(source: Source, divided: Divided, say: Callable[[str, str], None]) -> Iterator[str]:
    found = rewrite.Reading(source, rewrite.LeftOut(skip=False))
    if found.module.SAMPLE is not Document:
        kind = found.module.SAMPLE.__name__.lower()
        what = f"the format {found.format} gives {kind}s, a corpus is made of documents"
        raise DataError("D205", what, where=source.path, fix="--to store encodes conversations")
    lines = all(read.kind_of(path) == "text" for path in read.data_files(source.path))
    if not lines or found.module.WHOLE_FILES:
        for _, samples in found:
            yield from (one.text for one in samples if isinstance(one, Document))
        return
    if divided == "auto":
        divided = _looked_at(found.rows())
        other = "paragraphs" if divided == "lines" else "lines"
        why = "no blank line among the first: each line is a document"
        if divided == "paragraphs":
            why = "a blank line ends a document"
        say("data", f"{source.path}: {why} ({OPTION} {other}: {_MEANS[other]})")
    if divided == "lines":
        yield from (str(row.value) for row in found.rows())
    else:
        yield from _paragraphs(found.rows())


_MEANS = {"lines": "each line", "paragraphs": "each paragraph"}


def _looked_at(rows: Iterator[Row]) -> Divided:
    """Blank lines are no rows: where one is, numbers of lines have a gap."""
    first = itertools.islice(rows, LOOK_AT)
    gaps = (a.file == b.file and b.line != a.line + 1 for a, b in itertools.pairwise(first))
    return "paragraphs" if any(gaps) else "lines"


def _paragraphs(rows: Iterator[Row]) -> Iterator[str]:
    paragraph: list[str] = []
    size, begin, last = 0, ("", 0), ("", 0)
    for row in rows:
        if (row.file, row.line) != (last[0], last[1] + 1):
            if paragraph:
                yield "\n".join(paragraph)
            paragraph, size, begin = [], 0, (row.file, row.line)
        paragraph.append(str(row.value))
        size += len(paragraph[-1]) + 1
        last = row.file, row.line
        if size > MAX_ROW:
            raise DataError(
                "D230",
                f"a document of more than {MAX_ROW >> 20} MiB: no blank line ends it",
                where=where(*begin),
                why="A document is encoded at once, which takes some 70 bytes a character.",
                fix=f"{OPTION} lines takes each line as a document; or divide it by blank lines",
            )
    if paragraph:
        yield "\n".join(paragraph)
