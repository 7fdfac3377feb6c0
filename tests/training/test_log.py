"""What a run says about its speed: of its steps alone, on a clock that the test turns."""

from __future__ import annotations

import pytest

from tunesmith.training import log


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 1000.0

        def __call__(self) -> float:
            return self.now

    clock = Clock()
    monkeypatch.setattr(log.time, "monotonic", clock)
    return clock


def test_evaluation_and_warm_up_are_no_part_of_the_pace(clock):
    pace = log.Pace()
    with pace.aside("eval"):
        clock.now += 60
    clock.now += 20  # the first step warms up
    pace.end_step(100)
    assert pace.rate(100) is None
    assert pace.left(9, {"eval": 1}) is None
    for step in range(2, 5):
        clock.now += 2
        pace.end_step(step * 100)
    with pace.aside("save"):
        clock.now += 5
    assert pace.rate(400) == pytest.approx(300 / 6)
    assert pace.left(6, {}) == pytest.approx(6 * 2)
    assert pace.left(6, {"eval": 2, "save": 1}) == pytest.approx(6 * 2 + 2 * 60 + 5)
    assert pace.left(6, {"sample": 3}) == pytest.approx(12)  # never yet done: not known


def test_the_rate_is_that_since_it_was_last_asked(clock):
    pace = log.Pace()
    pace.end_step(10)
    for tokens, seconds in ((110, 1.0), (210, 4.0)):
        clock.now += seconds
        pace.end_step(tokens)
        assert pace.rate(tokens) == pytest.approx(100 / seconds)


def test_at_the_end_nothing_is_left_but_what_is_due(clock):
    pace = log.Pace()
    clock.now += 3
    pace.end_step(10)
    assert pace.left(0, {}) == 0.0
    with pace.aside("eval"):
        clock.now += 7
    assert pace.left(0, {"eval": 1}) == pytest.approx(7)


def test_a_line_holds_null_for_what_is_not_known(clock):
    run_log = log.Log()
    clock.now += 4
    timing = run_log.timing(5, {})
    assert (timing["tokens_per_second"], timing["eta_s"]) == (None, None)
    assert timing["elapsed_s"] == 4.0
    assert tuple(timing) == log.TIMED
