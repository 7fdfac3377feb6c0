"""Rounds visit a loader's steps several times over, and lose none."""

from __future__ import annotations

import pytest

from tunesmith.data.rounds import Rounds


class Steps:
    """A loader of seven steps an epoch, two rows a step."""

    def row_ids(self, index):
        return [2 * index, 2 * index + 1]

    def micro_rows(self, index):
        return [[row] for row in self.row_ids(index)]

    def describe(self, index):
        return [f"rows:{row}" for row in self.row_ids(index)]

    def total_steps(self, epochs, max_steps=None):
        return int(epochs * 7)

    def epoch_of(self, index):
        return index / 7

    def ends_epoch(self, index):
        return index > 0 and index % 7 == 0


def test_a_round_is_visited_as_a_whole_before_the_next():
    rounds = Rounds(Steps(), width=2, times=3)  # type: ignore[arg-type]
    assert rounds.size == 6
    assert [rounds.visited(step) for step in range(8)] == [0, 1, 0, 1, 0, 1, 2, 3]
    assert rounds.row_ids(7) == [6, 7]
    assert rounds.describe(2) == ["rows:0", "rows:1"]
    assert rounds.micro_rows(1) == [[[4], [5]], [[6], [7]]]


@pytest.mark.parametrize(("width", "times"), [(1, 1), (2, 1), (1, 3), (2, 2)])
def test_an_epoch_visits_every_step_so_often(width, times):
    rounds = Rounds(Steps(), width=width, times=times)  # type: ignore[arg-type]
    total = rounds.total_steps(2)
    visited = [rounds.visited(step) for step in range(total)]
    assert all(visited.count(index) == times for index in range(14))
    assert rounds.epoch_of(total) == pytest.approx(2.0)
    assert rounds.ends_epoch(total)
    assert not rounds.ends_epoch(0)
    assert rounds.total_steps(2, max_steps=5) == 5
