"""What is refused before a run begins, and what a stop or a refusal leaves behind."""

from __future__ import annotations

import json
import os
import signal

import pytest

from tunesmith import compose, recipe
from tunesmith.cli import main
from tunesmith.compose import inspection
from tunesmith.errors import ConfigError, EnvironmentFault, Interrupted
from tunesmith.rundir import RunDir


@pytest.fixture
def settings(tiny_model, tmp_path, own_home):
    """`settings(**sections)`: a small recipe as plain data."""
    rows = [{"instruction": f"Say {i}", "output": "ok " * (1 + i % 3)} for i in range(9)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def settings(**sections):
        found = {
            "model": str(tiny_model),
            "stage": "sft",
            "data": {"train": str(tmp_path / "rows.jsonl"), "num_proc": 1},
            "train": {"max_steps": 4, "per_device_train_batch_size": 2, "dtype": "float32"},
            "output": {"dir": str(tmp_path / "runs"), "name": "it"},
        }
        for name, values in sections.items():
            before = found.get(name)
            found[name] = {**before, **values} if isinstance(before, dict) else values
        return found

    return settings


def train(settings, display=None) -> RunDir:
    return compose.train(recipe.from_dict(settings), display=display)


def test_a_weight_of_nothing(settings, tmp_path):
    source = {"path": str(tmp_path / "rows.jsonl"), "weight": 0.0}
    with pytest.raises(ConfigError) as caught:
        train(settings(data={"train": [source]}))
    assert caught.value.code == "C187"
    assert not (tmp_path / "runs").exists()


def test_the_best_of_no_evaluations(settings):
    with pytest.raises(ConfigError) as caught:
        train(settings(eval={"load_best_model_at_end": True}))
    assert caught.value.code == "C189"


def test_a_metric_that_is_not_there_is_told_before_step_1(settings):
    changed = settings(data={"eval": {"count": 2}}, eval={"metric_for_best_model": "eval_los"})
    with pytest.raises(ConfigError) as caught:
        train(changed)
    assert caught.value.code == "C188"
    assert "did you mean `eval_loss`?" in caught.value.fix


@pytest.mark.parametrize(
    "tuner", [{"kind": "lora", "r": 0}, {"kind": "lora", "target_modules": ["nowhere"]}]
)
def test_a_tuner_that_can_not_be_leaves_no_run(settings, tuner, tmp_path):
    with pytest.raises(ConfigError):
        train(settings(tuner=tuner))
    assert not (tmp_path / "runs").exists()


def test_schedules_longer_than_the_run_are_said(settings):
    said: list[str] = []

    class Ears(compose.Display):
        def line(self, topic, text):
            said.append(text)

    train(settings(optim={"warmup_steps": 100}), Ears())
    assert any("never reaches" in text for text in said)


def test_the_best_is_in_the_run_and_in_trainer_state(settings):
    run = train(
        settings(
            data={"eval": {"count": 2}},
            eval={"steps": 2, "load_best_model_at_end": True},
        )
    )
    state = json.loads((run.path / "trainer_state.json").read_text())
    best = run.info()["best_step"]
    assert state["best_metric"] == run.info()["best_value"]
    assert state["best_model_checkpoint"] == f"checkpoints/step-{best}"


class At(compose.Display):
    """Sends a signal once the model is there, and so many more after the first step."""

    def __init__(self, number: int, loading: bool = False, times: int = 1):
        self.number, self.loading, self.times = number, loading, times

    def line(self, topic, text):
        if self.loading and topic == "model":
            os.kill(os.getpid(), self.number)

    def metrics(self, line):
        if not self.loading and "loss" in line:
            for _ in range(self.times):
                os.kill(os.getpid(), self.number)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("loading", [True, False], ids=["while loading", "second signal"])
def test_a_stop_at_once_is_a_stop_and_can_be_resumed(settings, number, code, loading):
    changed = settings(train={"logging_steps": 1, "save_steps": 1})
    with pytest.raises(Interrupted) as caught:
        train(changed, At(number, loading, times=2))
    assert caught.value.exit_code == code
    run = RunDir.open(os.path.join(changed["output"]["dir"], "it"))
    info = run.info()
    assert (info["state"], info["exit_code"]) == ("stopped", code)
    assert compose.resume(str(run.path)).info()["state"] == "done"


def test_a_refused_resume_leaves_the_run_as_it_was(settings):
    run = train(settings(train={"logging_steps": 1}), At(signal.SIGTERM))
    assert run.info()["state"] == "stopped"
    with pytest.raises(ConfigError):
        compose.resume(str(run.path), overrides=("log.report_to=[nobody]",))
    assert run.info()["state"] == "stopped"


def test_what_inspect_encoded_is_what_train_would_have(settings, tmp_path):
    rows = [{"instruction": "Say it", "output": "ok"}] * 3
    rows += [{"instruction": "Say it", "output": "long " * 90}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    changed = settings(data={"max_length": 64, "on_overlength": "skip"})
    inspection.inspect(recipe.from_dict(changed))
    run = train(changed)
    report = json.loads((run.path / "data_report.json").read_text())["train"]
    assert (report["left_out"], report["bad_rows"]) == (1, 0)


def test_a_string_is_the_data_to_train_on(settings, tmp_path):
    loaded = recipe.from_dict({**settings(), "data": str(tmp_path / "rows.jsonl")})
    assert loaded.data.train[0].path == str(tmp_path / "rows.jsonl")


def test_a_place_that_can_not_be_written_is_no_bug_of_ours(tiny_model, capsys):
    words = ["generate", str(tiny_model), "-p", "Hi", "--max-tokens", "2"]
    code = main.main([*words, "--output", "/proc/o.jsonl"])
    assert code == EnvironmentFault.exit_code
    assert "error[E111]" in capsys.readouterr().err
