"""Evaluation rows taken from the training rows, drawn by the seed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence

import numpy as np

from tunesmith.data import prints
from tunesmith.data.blocks import documents
from tunesmith.data.corpus import parts
from tunesmith.data.order import permutation
from tunesmith.data.store import Dataset
from tunesmith.errors import DataError
from tunesmith.recipe.sections import Holdout

EVAL = "data.eval"


def of_dataset(
    data: Dataset,
    config: Holdout,
    seed: int,
    *,
    without: Collection[int] = (),
    say: Callable[[str], None] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Items for training and for evaluation, each ascending, int64.

    Rows are drawn, not items: blocks of one document stay on one side. So do equal rows, by the
    same hash as the check of what is trained on and evaluated with (`data.prints`).

    Args:
        data: All items.
        config: A count or fraction of the rows; or `split`, shares of each source's documents in
            their order, of which the third (test) is left out, equal or not.
        seed: The run's seed.
        without: Examples that say nothing of their row: see `prints.of_items`.
        say: Is told of equal rows, and of a number that could not be met.

    Raises:
        DataError: D208, neither side may be empty; D213, a split that is none.
    """
    first_D, count_D = documents(data)
    if config.split is None:
        group_D = _groups(prints.of_items(_compared(data), without=without), first_D, count_D)
        say = say or (lambda text: None)
        if len(data) > prints.COMPARED:
            most = prints.COMPARED
            say(f"of {len(data):,} rows only the first {most:,} were compared with each other")
        sides = _of_groups(group_D, config, seed, say)
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


def _compared(data: Dataset) -> Dataset:
    """The items that are compared with each other; of more, a run can't wait for the rest."""
    most = prints.COMPARED
    return data if len(data) <= most else data.select(np.arange(most))


def _groups(prints_N: Sequence[bytes], first_D: np.ndarray, count_D: np.ndarray) -> np.ndarray:
    """The group of each document, int64 (D,), numbered as they first stand: equal ones share one,
    and those with items beyond the hashes have one of their own."""
    seen: dict[tuple[bytes, ...], int] = {}
    group_D = np.empty(len(first_D), np.int64)
    made = 0
    for document, (first, count) in enumerate(zip(first_D.tolist(), count_D.tolist(), strict=True)):
        if first + count > len(prints_N):
            group_D[document:] = np.arange(made, made + len(first_D) - document)
            break
        group = seen.setdefault(tuple(prints_N[first : first + count]), made)
        made += group == made
        group_D[document] = group
    return group_D


def _of_groups(
    group_D: np.ndarray, config: Holdout, seed: int, say: Callable[[str], None]
) -> tuple[np.ndarray, np.ndarray]:
    """Documents for training and for evaluation; a group is on one side."""
    sizes = np.bincount(group_D)
    if len(sizes) == len(group_D):
        return holdout(len(group_D), config, seed)
    chosen, asked = whole_groups(sizes.tolist(), config, seed)
    taken_D = np.isin(group_D, list(chosen))
    copies, got = len(group_D) - len(sizes), int(taken_D.sum())
    text = f"{copies:,} of {len(group_D):,} rows equal an earlier one; they stand on its side"
    if got != asked:
        text += f", so that {got:,} rows are held out where {asked:,} were asked for"
    say(text)
    return np.flatnonzero(~taken_D), np.flatnonzero(taken_D)


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
    taken = _asked(n, config, said_as)
    drawn = permutation(n, seed, 0, "holdout")
    return np.sort(drawn[taken:]), np.sort(drawn[:taken])


def _asked(n: int, config: Holdout, said_as: str) -> int:
    """How many of `n` rows are asked for.

    Raises:
        DataError: D208, none or all of them.
    """
    taken = config.count
    if taken is None:
        taken = max(1, round(n * (config.fraction or 0.0)))
    if not 0 < taken < n:
        asked = f"count: {config.count}" if config.count is not None else f"{config.fraction:g}"
        raise _empty(f"{said_as} asks for {taken:,} of {n:,} rows ({asked})", said_as)
    return taken


def whole_groups(
    sizes: Sequence[int], config: Holdout, seed: int, said_as: str = EVAL
) -> tuple[set[int], int]:
    """Groups of rows whose evaluation rows are as many as asked for, or as nearly as groups that
    stay whole allow; and how many rows were asked for.

    Groups are taken in the order drawn as long as they fit, which is the draw of `holdout` where
    each has one row. Where that falls short, their sizes are chosen first.

    Args:
        sizes: Rows of each group.
        config: A count, or a fraction (rounded, at least one row) of all rows.
        seed: The run's seed.
        said_as: What the user wrote to ask for it, for messages.

    Raises:
        DataError: D208, neither side may be empty; all rows are of one group.
    """
    total = sum(sizes)
    wanted = _asked(total, config, said_as)
    if len(sizes) == 1:
        what = f"all {total:,} rows are equal, and equal rows stay on one side"
        raise DataError("D208", what, where=said_as, fix="split data with different rows")
    drawn = permutation(len(sizes), seed, 0, "holdout").tolist()
    chosen, left = set[int](), wanted
    for group in drawn:
        if sizes[group] <= left:
            chosen.add(group)
            left -= sizes[group]
        if not left:
            return chosen, wanted
    of_size = _nearest(Counter(sizes), wanted)
    if sum(size * count for size, count in of_size.items()) == wanted - left:
        return chosen, wanted
    chosen = set()
    for group in drawn:
        if of_size.get(sizes[group], 0):
            of_size[sizes[group]] -= 1
            chosen.add(group)
    return chosen, wanted


def _nearest(groups: Counter[int], wanted: int) -> dict[int, int]:
    """How many groups of each size make the sum nearest to `wanted` that leaves neither side empty;
    of two as near the smaller one. A subset sum, its reachable sums as the bits of one integer."""
    total = sum(size * count for size, count in groups.items())
    below_total = (1 << total) - 1
    steps: list[tuple[int, int, int]] = []  # size, groups of it, sums reachable without them
    sums = 1
    for size, count in sorted(groups.items()):
        part = 1
        while count:  # 1, 2, 4 … groups at once, so that few steps make any number of them
            part = min(part, count)
            steps.append((size, part, sums))
            sums = (sums | sums << size * part) & below_total
            count, part = count - part, part * 2
    lower = (sums & ((2 << wanted) - 1)).bit_length() - 1
    above = sums >> wanted
    upper = wanted + (above & -above).bit_length() - 1 if above else total
    left = lower if lower and (not above or wanted - lower <= upper - wanted) else upper
    found: Counter[int] = Counter()
    for size, part, before in reversed(steps):
        if not before >> left & 1:
            found[size] += part
            left -= size * part
    return found
