"""Run directories: what is in them, their states, and where their model lies."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest

from tunesmith.errors import RunError
from tunesmith.rundir import RunDir
from tunesmith.training import checkpoint

HOLD = """
import signal, sys, time
from tunesmith.rundir import RunDir
run = RunDir.open(sys.argv[1])
with run.lock():
    run.update(state="running")
    signal.signal(signal.SIGTERM, lambda *_: (run.update(state="stopped"), sys.exit(143)))
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def hold():
    """Starts a process that holds a run."""
    started = []

    def hold(run: RunDir) -> subprocess.Popen:
        command = [sys.executable, "-c", HOLD, str(run.path)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield hold
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def save(run: RunDir, step: int, best: int | None = None) -> None:
    """A real checkpoint without tensors."""
    state = {"best": None if best is None else {"value": 1.0, "step": best, "saved": True}}
    folder = checkpoint.save(
        run.path, step, weights={}, optimizer={}, state=state, limit=None, best=best
    )
    assert folder.is_dir()


def test_a_new_run(create, root):
    run = create(resolved="stage:\n  kind: sft\n")
    assert re.fullmatch(r"\d{8}-\d{4}-sft-tiny-[a-z2-9]{4}", run.id)
    assert (run.path / "recipe.yaml").read_text() == "stage: sft\n"
    assert (run.path / "resolved.yaml").read_text() == "stage:\n  kind: sft\n"
    info = run.info()
    assert (info["state"], info["stage"], info["model"]) == ("queued", "sft", "builtin:tiny")
    assert info["packages"]["torch"]
    assert (root / "last").resolve() == run.path
    assert not list(run.path.glob(".*tmp"))


def test_a_name_is_taken_once(create, root, tmp_path):
    create("mine")
    with pytest.raises(RunError) as caught:
        create("mine")
    assert (caught.value.code, caught.value.fix[:21]) == ("R102", "tunesmith resume mine")
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError) as caught:
        RunDir.create("", SimpleNamespace(), root=tmp_path / "file" / "runs", name="x")
    assert caught.value.code == "R102"


def test_a_run_killed_while_it_is_made_leaves_no_run_and_no_taken_name(create, root, monkeypatch):
    def die(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("tunesmith.rundir.files.write_json", die)
        with pytest.raises(KeyboardInterrupt):
            create("mine")
    assert RunDir.all(root) == []
    assert create("mine").info()["state"] == "queued"
    (root / "empty").mkdir()
    assert create("empty").info()["state"] == "queued"


def test_what_is_in_the_way_is_left_alone(create, root):
    (root / "notes").mkdir(parents=True)
    (root / "notes" / "mine.txt").write_text("keep me")
    with pytest.raises(RunError) as caught:
        create("notes")
    assert (caught.value.code, "no run" in caught.value.what) == ("R102", True)
    assert (root / "notes" / "mine.txt").read_text() == "keep me"


def test_leftovers_of_a_kill_are_cleaned(create):
    run = create()
    (run.path / ".run.json.1-abc.tmp").write_text("{")
    run.clean()
    assert not (run.path / ".run.json.1-abc.tmp").exists()
    assert run.info()["state"] == "queued"


def test_what_is_no_run(root, tmp_path):
    with pytest.raises(RunError) as caught:
        RunDir.open(tmp_path)
    assert caught.value.code == "R105"


def test_a_damaged_record_is_named(create):
    run = create()
    (run.path / "run.json").write_text('{"state": ')
    with pytest.raises(RunError) as caught:
        run.info()
    assert caught.value.code == "R109"


def test_a_killed_run_reads_as_failed(create, hold):
    run = create()
    process = hold(run)
    assert run.info()["state"] == "running"
    assert run.is_locked()
    process.kill()
    process.wait()
    info = run.info()
    assert info["state"] == "failed"
    assert info["error"].startswith("killed")
    assert not run.is_locked()
    with run.lock():
        assert run.info()["state"] == "running"


def test_a_held_run_is_refused_with_the_pid(create, hold):
    run = create()
    process = hold(run)
    with pytest.raises(RunError) as caught, run.lock():
        pass
    assert caught.value.code == "R101"
    assert f"process {process.pid} on" in caught.value.what
    with pytest.raises(RunError) as caught:
        run.remove()
    assert caught.value.code == "R101"
    assert run.path.is_dir()


def test_stop_signals_the_holder(create, hold):
    run = create()
    process = hold(run)
    assert run.request_stop() == process.pid
    assert process.wait(timeout=20) == 143
    assert run.info()["state"] == "stopped"
    with pytest.raises(RunError) as caught:
        run.request_stop()
    assert caught.value.code == "R104"
    assert "stopped" in caught.value.what


def test_stop_does_not_signal_a_pid_of_another_host(create):
    run = create()
    with run.lock():
        (run.path / ".lock").write_text(json.dumps({"pid": os.getpid(), "host": "elsewhere"}))
        previous = signal.signal(signal.SIGTERM, lambda *_: pytest.fail("was signalled"))
        try:
            with pytest.raises(RunError) as caught:
                run.request_stop()
        finally:
            signal.signal(signal.SIGTERM, previous)
    assert caught.value.code == "R103"


def test_metrics_are_cut_back_and_events_only_grow(create):
    run = create()
    for step in range(1, 6):
        run.append_metrics({"step": step, "loss": 1.0 / step})
        run.append_event("checkpoint", step=step)
    run.truncate_metrics(3)
    run.append_metrics({"step": 4, "loss": float("nan")})
    assert [line["step"] for line in run.metrics()] == [1, 2, 3, 4]
    assert run.metrics()[-1]["loss"] is None
    assert [event["step"] for event in run.events()] == [1, 2, 3, 4, 5]
    run.truncate_metrics(-1)
    assert run.metrics() == []


def test_a_run_that_ends_leaves_a_trainer_state(create):
    run = create()
    run.append_metrics({"step": 10, "epoch": 0.5, "loss": 2.0, "tokens": 640})
    run.append_metrics({"step": 20, "epoch": 1.0, "eval_loss": 1.5})
    run.update(state="running")
    assert not (run.path / "trainer_state.json").exists()
    run.update(state="done", total_steps=20)
    state = json.loads((run.path / "trainer_state.json").read_text())
    assert (state["global_step"], state["epoch"], state["max_steps"]) == (20, 1.0, 20)
    assert state["log_history"] == run.metrics()
    assert state["num_input_tokens_seen"] == 640


@pytest.mark.slow
def test_transformers_reads_the_trainer_state(create):
    from transformers import TrainerState

    run = create()
    run.append_metrics({"step": 10, "epoch": 0.5, "loss": 2.0})
    run.update(state="stopped")
    state = TrainerState.load_from_json(str(run.path / "trainer_state.json"))
    assert (state.global_step, state.log_history[0]["loss"]) == (10, 2.0)


def test_where_the_model_lies(create):
    run = create()
    with pytest.raises(RunError) as caught:
        run.model_path()
    assert caught.value.code == "R107"
    save(run, 10, best=10)
    save(run, 20, best=10)
    save(run, 30, best=10)
    path = lambda step: run.path / "checkpoints" / f"step-{step}"
    assert run.steps() == [10, 20, 30]
    assert run.model_path() == run.model_path("best") == path(10)
    assert run.model_path("step-20") == path(20)
    (path(10) / "state.json").unlink()
    assert run.model_path() == path(30)  # the best is damaged
    for selector in ("best", "step-10", "step-11", "final"):
        with pytest.raises(RunError) as caught:
            run.model_path(selector)
        assert caught.value.code == "R108"
        assert "@step-20, @step-30" in caught.value.fix
    (run.path / "final").mkdir()
    assert run.model_path() == run.model_path("final") == run.path / "final"


def test_remove(create):
    first, second = create("a"), create("b")
    second.remove()
    assert not second.path.exists()
    assert [run.id for run in RunDir.all("runs")] == ["a"]
    assert RunDir.find("last")[0].path == first.path
    assert not list(first.path.parent.glob(".trash*"))
