"""Trackers: real files, no login, unknown names refused."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tunesmith.errors import ConfigError, MissingExtra
from tunesmith.training import report

LINES = [
    {"step": 1, "epoch": 0.1, "loss": 2.0, "learning_rate": 1e-4, "note": "text"},
    {"step": 2, "epoch": 0.2, "loss": 1.5, "learning_rate": 5e-5},
    {"step": 2, "epoch": 0.2, "eval_loss": 1.75},
]


def scalars(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {
        tag: [(e.step, pytest.approx(e.value)) for e in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def test_nothing_is_reported_by_default(tmp_path):
    assert report.build((), tmp_path) == []


@pytest.mark.parametrize("name", ["tensorbord", "comet", ""])
def test_unknown_names_are_refused_with_the_list(tmp_path, name):
    with pytest.raises(ConfigError, match=f"no tracker called `{name}`") as error:
        report.build(("tensorboard", name), tmp_path)
    assert error.value.code == "C195"
    assert "known: tensorboard, wandb" in error.value.fix
    assert ("did you mean `tensorboard`?" in error.value.fix) is (name == "tensorbord")
    assert list(tmp_path.iterdir()) == []


def test_tensorboard(tmp_path):
    pytest.importorskip("tensorboard")
    (reporter,) = report.build(("tensorboard", "tensorboard"), tmp_path)
    for line in LINES:
        reporter.metrics(line)
    assert scalars(tmp_path / "tensorboard") == {  # before close: a killed run keeps its curves
        "train/epoch": [(1, 0.1), (2, 0.2), (2, 0.2)],
        "train/loss": [(1, 2.0), (2, 1.5)],
        "train/learning_rate": [(1, 1e-4), (2, 5e-5)],
        "eval/loss": [(2, 1.75)],
    }
    reporter.close()


def test_a_resumed_run_purges_what_came_after_the_checkpoint(tmp_path):
    pytest.importorskip("tensorboard")
    for losses in ({1: 9.0, 2: 8.0, 3: 7.0}, {2: 0.8, 3: 0.7}):
        (reporter,) = report.build(("tensorboard",), tmp_path)
        for step, loss in losses.items():
            reporter.metrics({"step": step, "loss": loss})
        reporter.close()
    assert scalars(tmp_path / "tensorboard") == {"train/loss": [(1, 9.0), (2, 0.8), (3, 0.7)]}


def test_wandb_stays_offline_and_never_asks(tmp_path):
    pytest.importorskip("wandb")
    script = (
        "import sys; from pathlib import Path; from tunesmith.training import report\n"
        "(r,) = report.build(('wandb',), Path(sys.argv[1]))\n"
        "for s in (1, 2): r.metrics({'step': s, 'loss': 1.0 / s})\n"
        "r.close()\n"
    )
    run = tmp_path / "20261121-0655-sft-tiny-k7f3"
    run.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", script, str(run)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    files = [p for p in run.rglob("*.wandb")]
    assert [p.name for p in files] == [f"run-{run.name}.wandb"]
    assert b"loss" in files[0].read_bytes()


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_missing_package_names_the_extra(tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    with pytest.raises(MissingExtra, match=r"needs the package `" + name) as error:
        report.build((name,), tmp_path)
    assert error.value.fix == "pip install 'tunesmith[trackers]'"
    with pytest.raises(MissingExtra, match=r"needs the package `" + name):
        report.check_installed((name,))  # before any work
