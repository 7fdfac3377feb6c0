"""What a check of encoded data says, and what it must know to say it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from tunesmith.data.store import Dataset

Level = Literal["OK", "MINOR", "MAJOR"]

MEND = "tunesmith data check FILE --fix -o MENDED"
"""The command that mends files."""
SKIP = "data.on_bad_row=skip"
"""What leaves bad rows out; without it a training stops at them, whatever is said of findings."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    level: Level
    check: str
    text: str
    where: tuple[str, ...] = ()
    """The first rows concerned."""
    fix: str = ""
    """What mends it; empty where there is nothing to mend."""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Markers:
    """Ids that have a meaning here, and what the recipe says."""

    end_ids: frozenset[int]
    """End-of-turn markers and EOS."""
    bos_id: int | None = None
    documents: bool = False
    """Rows are documents, perhaps in several blocks; only the last block of each ends it."""
    max_length: int | None = None
    """What text is cut to, for the message."""
    cutting: bool = False
    """The user wrote that longer rows are to be cut."""
    measured: tuple[int, ...] = ()
    """Which examples of each item are not trained on, but measured for the others: another row's
    answer. Without any, items of two examples are a chosen and a rejected answer."""
    skipping: bool = False
    """The recipe says that bad rows are left out (data.on_bad_row: skip)."""


def places(data: Dataset, rows: np.ndarray | Sequence[int]) -> tuple[str, ...]:
    """Where the first of these items stand in their files."""
    return tuple(dict.fromkeys(data.where(int(index)) for index in rows[:5]))
