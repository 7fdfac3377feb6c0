"""Evaluation rows taken from the training rows, drawn by the seed."""

from __future__ import annotations

import numpy as np

from tunesmith.data.blocks import documents
from tunesmith.data.corpus import parts
from tunesmith.data.order import permutation
from tunesmith.data.store import Dataset
from tunesmith.errors import DataError
from tunesmith.recipe.sections import Holdout

EVAL = "data.eval"


def of_dataset(data: Dataset, config: Holdout, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Items for training and for evaluation, each ascending, int64.

    Rows are drawn, not items: blocks of one document stay on one side.

    Args:
        data: All items.
        config: A count or fraction of the rows; or `split`, shares of each source's documents in
            their order, of which the third (test) is left out.
        seed: The run's seed.

    Raises:
        DataError: D208, neither side may be empty; D213, a split that is none.
    """
    first_D, count_D = documents(data)
    if config.split is None:
        sides = holdout(len(first_D), config, seed)
    else:
        train: list[int] = []
        evaluation: list[int] = []
        source_D = data.source_N[first_D]
        for source in np.unique(source_D):
            members = np.flatnonzero(source_D == source)
            (a, b), (c, d), _ = parts(config.split, len(members))
            train += members[a:b].tolist()
            evaluation += members[c:d].tolist()
        if not train or not evaluation:
            raise _empty(f"data.eval.split {config.split} leaves a side without rows")
        sides = np.asarray(train, np.int64), np.asarray(evaluation, np.int64)
    train_items, eval_items = (_expanded(side, first_D, count_D) for side in sides)
    return train_items, eval_items


def _expanded(chosen: np.ndarray, first_D: np.ndarray, count_D: np.ndarray) -> np.ndarray:
    first, count = first_D[chosen], count_D[chosen]
    ends = np.cumsum(count)
    within = np.arange(int(ends[-1]) if len(ends) else 0) - np.repeat(ends - count, count)
    return np.repeat(first, count) + within


def _empty(what: str, said_as: str = EVAL) -> DataError:
    fix = "leave rows on both sides"
    fix += ", or name a file of evaluation rows" if said_as == EVAL else ": ask for fewer, or more"
    return DataError("D208", what, where=said_as, fix=fix)


def holdout(
    n: int, config: Holdout, seed: int, said_as: str = EVAL
) -> tuple[np.ndarray, np.ndarray]:
    """Indices of training and of evaluation rows, each ascending, int64.

    Args:
        n: Rows in all.
        config: A count, or a fraction (rounded, at least one row).
        seed: The run's seed.
        said_as: What the user wrote to ask for it, for messages.

    Raises:
        DataError: D208, neither side may be empty.
    """
    if config.count is not None:
        taken = config.count
    else:
        taken = max(1, round(n * (config.fraction or 0.0)))
    if not 0 < taken < n:
        asked = f"count: {config.count}" if config.count is not None else f"{config.fraction:g}"
        raise _empty(f"{said_as} asks for {taken:,} of {n:,} rows ({asked})", said_as)
    drawn = permutation(n, seed, 0, "holdout")
    return np.sort(drawn[taken:]), np.sort(drawn[:taken])
