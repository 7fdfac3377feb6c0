"""What run.json and log.txt say of a run that failed."""

from __future__ import annotations

import pytest

from tunesmith import recipe
from tunesmith.compose import stopping
from tunesmith.errors import RunError
from tunesmith.rundir import RunDir


@pytest.fixture
def directory(tmp_path):
    wanted = recipe.from_dict({"model": "builtin:tiny", "data": {"train": "a.jsonl"}})
    return RunDir.create(recipe.dump(wanted), wanted, root=str(tmp_path), name="r")


def fail(directory):
    with stopping.recorded(directory, stopping.Stop()):
        raise RunError("R110", "the disk is full")


def test_a_failure_is_recorded_with_its_traceback(directory):
    with pytest.raises(RunError, match="the disk is full"):
        fail(directory)
    assert directory.info()["state"] == "failed"
    assert "the disk is full" in directory.info()["error"]
    assert "Traceback" in (directory.path / "log.txt").read_text()


def test_a_log_that_can_not_be_written_hides_nothing(directory):
    (directory.path / "log.txt").mkdir()  # as on a full disk, opening it fails
    with pytest.raises(RunError, match="the disk is full"):
        fail(directory)
    assert directory.info()["state"] == "failed"
