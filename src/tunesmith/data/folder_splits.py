"""Files of one folder that are named train-… and test-…: nobody trains on both knowingly."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from tunesmith.errors import DataError

SPLITS = {
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "eval": "validation",
    "evaluation": "validation",
}
"""What a file or folder is called, and for what it is; so `datasets` reads names of files."""
_NAME = re.compile(rf"({'|'.join(SPLITS)})(?:[-_.]\d.*)?", re.IGNORECASE)


def check(found: Sequence[Path], top: Path) -> None:
    """Refuses files below a folder that are of several splits.

    Raises:
        DataError: D231.
    """
    splits: dict[str, Path] = {}
    for path in found:
        inner = path.relative_to(top)
        for name in (*inner.parts[:-1], inner.name.partition(".")[0]):
            if matched := _NAME.fullmatch(name):
                splits.setdefault(SPLITS[matched[1].lower()], inner)
    if len(splits) > 1:
        names = ", ".join(f"{split} ({path.as_posix()})" for split, path in splits.items())
        raise DataError(
            "D231",
            f"the folder holds several splits: {names}",
            where=str(top),
            why="Trained on together, nothing would be left to evaluate with.",
            fix=f"'data.train={{path: {top}, split: train}}', or name its files and folders",
        )
