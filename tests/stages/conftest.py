"""What tests of stages that sample need."""

from __future__ import annotations

from typing import Any

import pytest

from tunesmith.stages.rollout_impl import RolloutStage


@pytest.fixture
def seen(monkeypatch):
    """(run, round, answers) of each round of the runs that follow, before anything is learned."""
    kept: list[tuple[Any, Any, Any]] = []
    roll_out = RolloutStage.roll_out

    def spy(self, run, number):
        learn = self.learn
        self.learn = lambda run, made, answers: (
            kept.append((run, made, answers)),
            learn(run, made, answers),
        )
        try:
            return roll_out(self, run, number)
        finally:
            self.learn = learn

    monkeypatch.setattr(RolloutStage, "roll_out", spy)
    return kept
