"""`tunesmith runs` and `tunesmith stop` on real run directories."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tunesmith import recipe
from tunesmith.cli.main import main
from tunesmith.rundir import RunDir

HOLD = """
import signal, sys, time
from tunesmith.rundir import RunDir
run = RunDir.open(sys.argv[1])
with run.lock():
    run.update(state="running")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143) if sys.argv[2] == "obeys" else None)
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def create(tmp_path, monkeypatch):
    """Makes runs in an empty current directory."""
    monkeypatch.setenv("TUNESMITH_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)

    def create(name: str, **train) -> RunDir:
        made = recipe.from_dict({"model": "builtin:tiny", "train": train})
        text = recipe.dump(made)
        return RunDir.create(text, made, root="runs", name=name, resolved=text)

    return create


@pytest.fixture
def hold():
    started = []

    def hold(run: RunDir, manner: str) -> subprocess.Popen:
        command = [sys.executable, "-c", HOLD, str(run.path), manner]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield hold
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def test_no_runs(create, capsys):
    assert main(["runs"]) == 0
    assert capsys.readouterr() == ("", "no runs in runs/, nor in the index\n")
    assert main(["runs", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []


def test_ls_and_show(create, capsys):
    run = create("a")
    run.append_metrics({"step": 1, "loss": 2.5})
    run.append_metrics({"step": 2, "eval_loss": 2.0})
    (create("b").path / "run.json").write_text("{")
    assert main(["runs", "ls", "--json"]) == 0
    rows = {row["id"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["b"]["state"] == "damaged"
    assert (rows["a"]["step"], rows["a"]["loss"], rows["a"]["eval_loss"]) == (2, 2.5, 2.0)
    assert main(["runs"]) == 0
    assert capsys.readouterr().out.splitlines()[0].split()[:2] == ["id", "state"]
    assert main(["runs", "show", "a", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["state"], shown["model_path"], shown["last"]["loss"]) == ("queued", None, 2.5)
    assert main(["runs", "show", "a"]) == 0
    assert "last eval_loss" in capsys.readouterr().out
    assert main(["runs", "show", "c"]) == 1
    assert "error[R105]" in capsys.readouterr().err


def test_compare(create, capsys):
    create("a", seed=1)
    create("b", seed=2)
    assert main(["runs", "compare", "a", "b", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["differences"] == {"train.seed": {"a": 1, "b": 2}}
    assert main(["runs", "compare", "a", "b"]) == 0
    assert "train.seed" in capsys.readouterr().out
    assert main(["runs", "compare", "a"]) == 2
    assert "error[C204]" in capsys.readouterr().err


def test_rm(create, capsys, monkeypatch):
    run = create("a")
    monkeypatch.setattr("sys.stdin.readline", lambda *_: "n\n", raising=False)
    assert main(["runs", "rm", "a"]) != 0
    assert run.path.is_dir()
    assert main(["runs", "rm", "a", "--yes"]) == 0
    assert not run.path.exists()


def test_stop(create, hold, capsys):
    run = create("a")
    assert main(["stop", "a"]) == 1
    assert "error[R104]" in capsys.readouterr().err
    process = hold(run, "obeys")
    assert main(["stop", "a", "--wait", "30", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"run": "a", "pid": process.pid, "ended": True}
    assert process.wait() == 143
    hold(run, "ignores")
    assert main(["stop", "a", "--wait", "0.3"]) == 1
    assert "error[R120]" in capsys.readouterr().err
    assert main(["stop", "a"]) == 0
    assert "will save after this step" in capsys.readouterr().out
