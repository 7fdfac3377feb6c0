"""Red lines are said when crossed, when they double, now and then while crossed, and at the end."""

from __future__ import annotations

import pytest

from tunesmith.errors import RunError
from tunesmith.stages.health_impl import AGAIN, Health


@pytest.fixture
def said() -> list[str]:
    return []


def looked(health: Health, kls: list[float]) -> None:
    for at, kl in enumerate(kls):
        health.round(at, 10.0, kl, None)


def test_it_is_said_again_when_it_doubles_and_when_it_comes_back(said):
    health = Health("warn", 10.0, said.append)
    looked(health, [5, 11, 12, 22, 23, 30, 44, 9, 11])
    assert [text.split(":")[0] for text in said] == ["step 1", "step 3", "step 6", "step 8"]


def test_it_is_said_again_after_so_many_looks(said):
    looked(Health("warn", 10.0, said.append), [11.0] * (2 * AGAIN + 1))
    assert [text.split(":")[0] for text in said] == ["step 0", f"step {AGAIN}", f"step {2 * AGAIN}"]


def test_what_is_said_is_kept_and_a_stop_is_kept_before_it_stops(said):
    kept = []
    health = Health("stop", 10.0, said.append, record=lambda kind, **fields: kept.append(fields))
    with pytest.raises(RunError) as caught:
        looked(health, [5, 11])
    assert caught.value.code == "R245"
    assert not said
    assert [(one["step"], one["line"]) for one in kept] == [(1, "kl")]


def test_the_end_says_since_when_and_until_when(said):
    health = Health("warn", 30.9, said.append)
    looked(health, [5, 31, 40])
    assert health.remarks() == ["KL went beyond its line of 30.9 nats from step 1 on"]
    looked(health, [5, 31, 40, 12])
    assert health.remarks() == ["KL went beyond its line of 30.9 nats from step 1 to 2"]


def test_nothing_is_remarked_of_a_run_that_stayed_well(said):
    health = Health("warn", 10.0, said.append)
    looked(health, [5, 9])
    health.see((1.0, 0.1, 1.0))
    health.update(2, lambda sums: sums)
    assert health.remarks() == said == []


def test_answers_all_rewarded_alike_are_said_and_never_stop(said):
    health = Health("stop", 10.0, said.append)
    for step, alike in enumerate([0.5, 1.0, 1.0, 0.9]):
        health.idle(step, alike)
    assert said == ["step 1: all answers were rewarded alike, so there is nothing to learn from"]
    assert health.remarks() == ["all answers of a round were rewarded alike from step 1 to 2"]
