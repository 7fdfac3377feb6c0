"""What run.json and log.txt say of a run that failed."""

from __future__ import annotations

import errno
import os

import pytest

from tunesmith import recipe
from tunesmith.compose import stopping
from tunesmith.compose.display import Display, Logged
from tunesmith.errors import Interrupted, RunError
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


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EFBIG])
def test_a_disk_that_does_not_write_is_no_bug(directory, number):
    with pytest.raises(RunError) as caught, stopping.disk_errors(directory):
        raise OSError(number, os.strerror(number), str(directory.path / "metrics.jsonl"))
    assert caught.value.code == "R121"
    assert os.strerror(number) in caught.value.what
    assert f"tunesmith resume {directory.id}" in caught.value.fix


def test_a_full_disk_in_the_words_of_safetensors(directory):
    with pytest.raises(RunError) as caught, stopping.disk_errors(directory):
        raise ValueError("I/O error: No space left on device (os error 28)")
    assert caught.value.code == "R121"


def test_other_files_and_other_errors_are_not_blamed_on_the_run(directory):
    for error in (OSError(errno.EACCES, "no", "/elsewhere"), ValueError("shape")):
        with pytest.raises(type(error)), stopping.disk_errors(directory):
            raise error


def test_run_json_says_what_the_terminal_says(directory):
    with (
        pytest.raises(RunError),
        stopping.disk_errors(directory),
        stopping.recorded(directory, stopping.Stop()),
        stopping.disk_errors(directory),
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert "error[R121]" in directory.info()["error"]
    assert directory.info()["exit_code"] == 1


def test_a_run_that_is_held_is_refused_before_any_work(directory):
    directory.refuse_if_locked()
    with directory.lock(), pytest.raises(RunError) as caught:
        directory.refuse_if_locked()
    assert caught.value.code == "R101"


def test_the_first_signal_is_answered_and_the_second_says_how_to_go_on(directory):
    said = []

    class Shown(Display):
        def line(self, topic: str, text: str) -> None:
            said.append(f"{topic}: {text}")

    class Run:
        stop_signal = None

    stop = stopping.Stop()
    stop.run, stop.display = Run(), Shown()
    stop.handle(2, None)
    assert stop.run.stop_signal == 2
    with pytest.raises(Interrupted) as caught, stopping.recorded(directory, stop):
        stop.handle(2, None)
    assert caught.value.exit_code == 130
    assert said == [
        "stop: after this step, then save; once more to stop at once",
        f"stop: at once; from the newest checkpoint: tunesmith resume {directory.id}",
    ]
    assert directory.info()["state"] == "stopped"


def test_what_was_said_before_there_was_a_run_is_in_its_log(tmp_path):
    display = Logged(Display())
    display.line("data", "3 rows")
    display.into(tmp_path / "log.txt")
    display.line("model", "tiny")
    topics = [line.split()[1:] for line in (tmp_path / "log.txt").read_text().splitlines()]
    assert topics == [["data", "3", "rows"], ["model", "tiny"]]
    display.into(tmp_path / "missing" / "log.txt")
    display.line("a", "disk that does not write ends nothing here")
