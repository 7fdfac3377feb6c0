"""Plain-text files of which each line is taken for a document, while they look like one text.

What is one text (verse, a book with hard line breaks) has short lines, blank lines between its
paragraphs, paragraphs of several lines, and lines that end in the middle of a sentence. Files of
one text a line don't have these together.
"""

from __future__ import annotations

import gzip
import itertools
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tunesmith.data import hub, read

HEAD = 1 << 16
"""Bytes of a file that are looked at."""
FEWEST = 20
"""Lines below which nothing can be told."""
SHORT = 120
"""Characters that nine lines in ten of one text don't exceed."""
LONG_PARAGRAPHS = 0.3
"""Share of the paragraphs that have several lines."""
MID_SENTENCE = 0.2
"""Share of the lines with another below that end in the middle of a sentence."""
ENDS = tuple(".!?…。！？」』”\"')]:;：；")


def one_text(lines: Sequence[str]) -> bool:
    """Whether lines, blank ones among them, look like one text that goes on in each."""
    runs = [list(run) for said, run in itertools.groupby(lines, lambda x: bool(x.strip())) if said]
    said = sorted(len(line) for run in runs for line in run)
    if len(said) < FEWEST or len(runs) < 2 or said[len(said) * 9 // 10] > SHORT:
        return False
    several = sum(len(run) > 1 for run in runs)
    followed = [line for run in runs for line in run[:-1]]
    open_ended = sum(not line.rstrip().endswith(ENDS) for line in followed)
    return several >= LONG_PARAGRAPHS * len(runs) and open_ended >= MID_SENTENCE * len(followed)


def suspects(sources: Sequence[Mapping[str, Any]]) -> tuple[list[str], int, int]:
    """Files that look like one text and whose lines are documents, among reported sources.

    Returns:
        Their names, how many text files there are, and how many documents their lines are.
    """
    found: list[str] = []
    files = documents = 0
    for source in sources:
        if source["format"] != "text" or source["path"].startswith(hub.PREFIX):
            continue
        plain = [file for file in read.data_files(source["path"]) if read.kind_of(file) == "text"]
        looking = [str(file) for file in plain if one_text(_head(file))]
        files += len(plain)
        documents += int(source["items"]) if looking else 0
        found += looking
    return found, files, documents


def _head(file: Path) -> list[str]:
    """The first lines of a file, without the last one, which may be cut."""
    try:
        with gzip.open(file) if file.name.lower().endswith(".gz") else file.open("rb") as stream:
            raw = stream.read(HEAD)
    except (OSError, EOFError, zlib.error):
        return []  # told where its rows are read
    lines = raw.decode("utf-8-sig", errors="replace").splitlines()
    return lines[:-1] if len(raw) == HEAD else lines
