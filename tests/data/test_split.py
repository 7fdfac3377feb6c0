"""A holdout is drawn once, by the seed, and leaves rows on both sides."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from tunesmith.data.split import holdout, whole_groups
from tunesmith.errors import DataError
from tunesmith.recipe.sections import Holdout


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
