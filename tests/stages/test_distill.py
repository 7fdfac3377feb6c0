"""Distillation: the student nears its teacher, on the data's answers and on its own."""

from __future__ import annotations

import shutil

import pytest

from tests.laws.conftest import perturbed
from tests.stages.sampling_runs import recipe_of, train
from tunesmith import compose
from tunesmith.errors import ConfigError


@pytest.fixture(scope="module")
def teacher(tiny_model, tmp_path_factory):
    """The tiny model with other weights."""
    from transformers import AutoModelForCausalLM

    path = tmp_path_factory.mktemp("teacher") / "model"
    shutil.copytree(tiny_model, path)
    perturbed(AutoModelForCausalLM.from_pretrained(tiny_model)).save_pretrained(path)
    return path


@pytest.mark.parametrize("stage", [{"beta": 0.0}, {"beta": 1.0}, {"lmbda": 0.5}, {"lmbda": 1.0}],
                         ids=str)  # fmt: skip
@pytest.mark.parametrize(
    "tuner", ["full", pytest.param({"kind": "lora", "r": 8}, marks=pytest.mark.slow)], ids=str
)
def test_the_student_nears_its_teacher(stage, tuner, tiny_model, teacher, tmp_path):
    run = train(
        tiny_model, tmp_path, {"kind": "distill", "teacher": str(teacher), **stage}, tuner=tuner,
        train={"max_steps": 16}, optim={"learning_rate": 5e-3}, data={"eval": {"count": 4}},
        eval={"steps": 8},
    )  # fmt: skip
    lines = [line for line in run.metrics() if "eval_loss" in line]
    assert lines[-1]["eval_loss"] < 0.8 * lines[0]["eval_loss"]
    assert lines[0]["eval_loss"] == lines[0]["eval_divergence"]
    assert "eval_perplexity" not in lines[0]


def test_a_stopped_run_goes_on_with_the_same_draws(tiny_model, teacher, tmp_path):
    stage = {"kind": "distill", "teacher": str(teacher), "lmbda": 0.5}
    changes = {"train": {"max_steps": 6, "save_steps": 3, "save_total_limit": None}}
    whole = compose.train(recipe_of(tiny_model, tmp_path, stage, "whole", **changes))
    numbers = {line["step"]: line["loss"] for line in whole.metrics() if "loss" in line}
    again = compose.train(recipe_of(tiny_model, tmp_path, stage, "again", **changes))
    shutil.rmtree(again.path / "checkpoints" / "step-6")
    again.update(state="stopped")
    resumed = compose.resume(str(again.path))
    assert {line["step"]: line["loss"] for line in resumed.metrics() if "loss" in line} == numbers


def test_what_can_not_teach_is_refused(tiny_model, teacher, tmp_path):
    with pytest.raises(ConfigError) as caught:
        train(tiny_model, tmp_path, {"kind": "distill"})
    assert caught.value.code == "C230"
    with pytest.raises(ConfigError) as caught:
        train(tiny_model, tmp_path, {"kind": "distill", "teacher": "builtin:tiny"})
    assert caught.value.code == "C231"
    for field, value in {"beta": 2.0, "lmbda": -1.0, "temperature": 0.0}.items():
        with pytest.raises(ConfigError) as caught:
            train(tiny_model, tmp_path, {"kind": "distill", "teacher": str(teacher), field: value})
        assert caught.value.code == "C227"
