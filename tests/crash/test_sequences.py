"""Any sequence of saves, kills, damage and clean-ups: the newest sound step never goes back."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings, strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from tests.crash import faults, scene
from tunesmith.training import checkpoint


class Checkpoints(RuleBasedStateMachine):
    """A run's checkpoints beside what they must be."""

    @initialize()
    def begin(self):
        top = "/dev/shm" if Path("/dev/shm").is_dir() else None
        self.top = Path(tempfile.mkdtemp(prefix="tunesmith-", dir=top))
        self.run = scene.begin(self.top / "run")
        self.step, self.sound = 2, 2

    @rule(limit=st.sampled_from([1, 2, 3, None]))
    def save(self, limit):
        self.step += 1
        scene.save(self.run, self.step, limit=limit)
        self.sound = self.step

    @rule(salt=st.integers(1, 3))
    def save_again(self, salt):
        scene.save(self.run, self.sound, salt=salt)

    @rule(at=st.integers(0, 35), kind=st.sampled_from(faults.KINDS), again=st.booleans())
    def killed(self, at, kind, again):
        """A save is killed; the next start cleans up first."""
        step = self.sound if again else self.step + 1
        ended = faults.run(
            lambda: scene.save(self.run, step, salt=9), faults.kill(self.run, at, kind)
        )
        checkpoint.clean(self.run)
        assert scene.leftovers(self.run) == []
        if not ended.killed:
            assert checkpoint.newest(self.run).step == step
        found = checkpoint.newest(self.run).step
        assert found >= self.sound
        self.sound = found
        self.step = max(self.step, step if self.sound == step else self.step)

    @rule(at=st.integers(0, 10**6), bit=st.integers(0, 7))
    def damaged(self, at, bit):
        """The newest is damaged, if there is another: that one is newest then."""
        steps = checkpoint.steps(self.run)
        if len(steps) < 2 or steps[-1] != self.sound:
            return
        files = sorted((self.run / "checkpoints" / f"step-{self.sound}").iterdir())
        path = files[at % len(files)]
        data = bytearray(path.read_bytes())
        data[at % len(data)] ^= 1 << bit
        path.write_bytes(data)
        self.sound = steps[-2]
        checkpoint.discard_after(self.run, self.sound)

    @invariant()
    def newest_is_sound(self):
        if hasattr(self, "run"):
            assert scene.check_newest(self.run).step == self.sound

    def teardown(self):
        if hasattr(self, "top"):
            shutil.rmtree(self.top)


COMMON = {"deadline": None, "suppress_health_check": list(HealthCheck)}


def test_short_sequences():
    few = settings(max_examples=8, stateful_step_count=10, derandomize=True, **COMMON)
    _run(few)


@pytest.mark.slow
def test_long_sequences():
    _run(settings(max_examples=60, stateful_step_count=40, **COMMON))


def _run(chosen: settings) -> None:
    run_state_machine_as_test(Checkpoints, settings=chosen)
