"""A holdout is drawn once, by the seed, and leaves rows on both sides."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from tunesmith.data import check_rows, prints, split, store
from tunesmith.data.finding import Markers
from tunesmith.data.split import holdout, whole_groups
from tunesmith.errors import DataError
from tunesmith.recipe.sections import Holdout
from tunesmith.types import Example

MARKS = Markers(frozenset({2}))


@given(st.integers(2, 200), st.integers(0, 99), st.data())
def test_parts_are_disjoint_and_complete(n, seed, data):
    count = data.draw(st.integers(1, n - 1))
    train, evaluation = holdout(n, Holdout(count=count), seed)
    assert len(evaluation) == count
    assert sorted([*train, *evaluation]) == list(range(n))
    again = holdout(n, Holdout(count=count), seed)
    assert (again[0] == train).all()
    assert (again[1] == evaluation).all()


def test_fraction():
    assert len(holdout(200, Holdout(fraction=0.05), 1)[1]) == 10
    assert len(holdout(3, Holdout(fraction=0.05), 1)[1]) == 1
    drawn = [holdout(200, Holdout(fraction=0.05), seed)[1].tolist() for seed in (1, 2)]
    assert drawn[0] != drawn[1]


@pytest.mark.parametrize("config", [Holdout(count=0), Holdout(count=9), Holdout(fraction=0.99)])
def test_neither_side_may_be_empty(config):
    with pytest.raises(DataError, match="D208"):
        holdout(9, config, 1)


SIZES = st.lists(st.integers(1, 6), min_size=2, max_size=9)


@given(SIZES, st.integers(0, 99), st.data())
def test_whole_groups_come_as_near_as_any(sizes, seed, data):
    wanted = data.draw(st.integers(1, sum(sizes) - 1))
    chosen, asked = whole_groups(sizes, Holdout(count=wanted), seed)
    assert asked == wanted
    sums = {0}
    for size in sizes:
        sums |= {one + size for one in sums}
    best = min(abs(one - wanted) for one in sums - {0, sum(sizes)})
    assert abs(sum(sizes[group] for group in chosen) - wanted) == best
    assert chosen == whole_groups(sizes, Holdout(count=wanted), seed)[0]


@given(st.integers(2, 60), st.integers(0, 99), st.data())
def test_groups_of_one_row_are_drawn_as_rows_are(n, seed, data):
    config = Holdout(count=data.draw(st.integers(1, n - 1)))
    assert sorted(whole_groups([1] * n, config, seed)[0]) == holdout(n, config, seed)[1].tolist()


def test_a_large_group_does_not_swell_the_evaluation():
    sizes = [50, *[1] * 50]
    for seed in range(20):
        for count in (20, 60):
            chosen, _ = whole_groups(sizes, Holdout(count=count), seed)
            assert sum(sizes[group] for group in chosen) == count
    with pytest.raises(DataError, match="all 9 rows are equal"):
        whole_groups([9], Holdout(count=3), 1)


def stored(tmp_path, contents, factors=None):
    """A row for each list of blocks; a block is ids, all trained but the first."""
    items = []
    for line, blocks in enumerate(contents, 1):
        for ids in blocks:
            weights = np.full(len(ids), (factors or {}).get(line, 1.0), np.float32)
            weights[0] = 0
            items.append(store.Item((Example(np.array(ids, np.int32), weights),), 0, line))
    store.write_shard(tmp_path / "a", items)
    return store.open_dataset([tmp_path / "a"], ["f"], {"rows": len(contents)})


@given(st.lists(st.integers(0, 5), min_size=4, max_size=30), st.integers(0, 9), st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_equal_rows_are_on_one_side(tmp_path, kinds, seed, data):
    if len(set(kinds)) < 2:
        return
    contents = [[[kind, 7], [kind, 8, 9]] if kind % 2 else [[kind, 7]] for kind in kinds]
    rows = stored(tmp_path, contents, {1: 2.0})  # a source's weight makes no other row
    wanted = data.draw(st.integers(1, len(kinds) - 1))
    said: list[str] = []
    sides = split.of_dataset(rows, Holdout(count=wanted), seed, say=said.append)
    held = [{int(rows[int(i)][0].ids_T[0]) for i in side} for side in sides]
    assert not held[0] & held[1]
    assert sorted(np.concatenate(sides).tolist()) == list(range(len(rows)))
    train, evaluation = map(rows.select, sides)
    assert check_rows.overlap(prints.of_items(train), evaluation, MARKS).level == "OK"
    got = len({int(rows.line_N[i]) for i in sides[1]})
    assert bool(said) == (len(set(kinds)) < len(kinds))
    assert ("are held out where" in "".join(said)) == (got != wanted)
    again = split.of_dataset(rows, Holdout(count=wanted), seed)
    assert all((a == b).all() for a, b in zip(sides, again, strict=True))


def test_rows_without_copies_are_drawn_as_before(tmp_path):
    rows = stored(tmp_path, [[[i, 7]] for i in range(50)])
    train, evaluation = split.of_dataset(rows, Holdout(fraction=0.2), 5)
    assert (evaluation == holdout(50, Holdout(fraction=0.2), 5)[1]).all()
    assert len(train) == 40


def test_only_the_first_rows_are_compared(tmp_path, monkeypatch):
    rows = stored(tmp_path, [[[i % 6, 7]] for i in range(12)])
    monkeypatch.setattr(prints, "COMPARED", 8)
    said: list[str] = []
    split.of_dataset(rows, Holdout(count=6), 5, say=said.append)
    assert said == ["of 12 rows only the first 8 were compared with each other",
                    "2 of 12 rows equal an earlier one; they stand on its side"]  # fmt: skip
