"""Stages that sample learn what is rewarded: by at least three standard errors, in minutes."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from tests.stages.sampling_runs import recipe_of
from tunesmith import compose

pytestmark = pytest.mark.slow


def standard_errors(before: np.ndarray, after: np.ndarray) -> float:
    """By how many standard errors of the difference the mean of `after` is higher."""
    error = math.sqrt(before.var(ddof=1) / len(before) + after.var(ddof=1) / len(after))
    return float((after.mean() - before.mean()) / error)


def rounds(monkeypatch) -> list[np.ndarray]:
    """The rewards of each round of the runs that follow."""
    from tunesmith.stages.rollout_impl import RolloutStage

    kept: list[np.ndarray] = []
    roll_out = RolloutStage.roll_out

    def spy(self, run, number):
        made = roll_out(self, run, number)
        kept.append(made.columns["reward"].ravel())
        return made

    monkeypatch.setattr(RolloutStage, "roll_out", spy)
    return kept


def test_grpo_raises_right_answers_to_sums(tmp_path, monkeypatch):
    file = tmp_path / "sums.jsonl"
    sums = [(a, b) for a in range(5) for b in range(5)]
    rows = [{"prompt": f"What is {a} plus {b}?", "completion": str(a + b)} for a, b in sums]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def run(name, model, stage, steps, rate):
        return compose.train(
            recipe_of(
                model, tmp_path, stage, name, tuner={"kind": "lora", "r": 16},
                data={"train": str(file)},
                train={"max_steps": steps, "per_device_train_batch_size": 16},
                optim={"learning_rate": rate, "adam_epsilon": 1e-8},
            )
        )  # fmt: skip

    taught = run("taught", "builtin:tiny", {"kind": "sft"}, 24, 2e-3)
    kept = rounds(monkeypatch)
    stage = {"kind": "grpo", "rewards": ["math_answer"], "num_generations": 8}
    run("rewarded", str(taught.path), stage, 30, 3e-3)
    before, after = np.concatenate(kept[:4]), np.concatenate(kept[-4:])
    print(f"right answers {before.mean():.3f} → {after.mean():.3f}")
    assert standard_errors(before, after) >= 3


@pytest.mark.shared
def test_ppo_raises_the_count_of_a_word_on_a_leash(shared_data, tmp_path, monkeypatch):
    file = tmp_path / "begin.jsonl"
    names = ["Lily", "Tom", "Ben", "Sue", "Max", "Anna", "Tim", "Mia"]
    things = ["dog", "cat", "ball", "tree", "boat", "bird", "car", "bear"]
    rows = [
        {"prompt": f"Once upon a time, {name} had a {thing}.", "completion": " It was nice."}
        for name in names
        for thing in things
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    kept = rounds(monkeypatch)
    limit = 30.0
    run = compose.train(
        recipe_of(
            shared_data / "models" / "stories260K" / "hf", tmp_path,
            {
                "kind": "ppo",
                "rewards": [{"path": "token_count", "argument": " big"}],
                "max_completion_length": 48,
                "num_ppo_epochs": 2,
                "num_mini_batches": 2,
                "kl_limit": limit,
                "on_health": "stop",
            },
            data={"train": str(file), "template": "vanilla"},
            train={"max_steps": 24, "per_device_train_batch_size": 32},
            optim={"learning_rate": 3e-4, "adam_epsilon": 1e-8},
        )
    )  # fmt: skip
    kl = [line["answer_kl"] for line in run.metrics() if "answer_kl" in line]
    explained = [line["explained_variance"] for line in run.metrics() if "loss" in line]
    before, after = kept[0], kept[-1]
    print(f"count {before.mean():.3f} → {after.mean():.3f}, KL {kl[-1]:.1f} nats an answer, the "
          f"critic explains {explained[-1]:.0%}")  # fmt: skip
    assert run.info()["state"] == "done"
    assert max(kl) < limit
    assert explained[-1] > 0.2
    assert standard_errors(before, after) >= 3
