"""Evaluation rows taken from the training rows, drawn by the seed."""

from __future__ import annotations

import numpy as np

from tunesmith.data.order import permutation
from tunesmith.errors import DataError
from tunesmith.recipe.sections import Holdout


def holdout(n: int, config: Holdout, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of training and of evaluation rows, each ascending, int64.

    Args:
        n: Rows in all.
        config: A count, or a fraction (rounded, at least one row).
        seed: The run's seed.

    Raises:
        DataError: D208, neither side may be empty.
    """
    if config.count is not None:
        taken = config.count
    else:
        taken = max(1, round(n * (config.fraction or 0.0)))
    if not 0 < taken < n:
        asked = f"count: {config.count}" if config.count is not None else f"{config.fraction:g}"
        raise DataError(
            "D208",
            f"data.eval asks for {taken:,} of {n:,} rows ({asked})",
            where="data.eval",
            fix="leave rows on both sides, or name a file of evaluation rows",
        )
    drawn = permutation(n, seed, 0, "holdout")
    return np.sort(drawn[taken:]), np.sort(drawn[:taken])
