"""Reinforcement from end to end: a model is taught, rewarded, and becomes better by it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.stages.sampling_runs import recipe_of
from tests.stages.test_learning import rounds, standard_errors
from tunesmith import compose, recipe
from tunesmith.cli.main import main

pytestmark = pytest.mark.slow

PHRASES = ("What is {} plus {}?", "{} + {} = ?", "Add {} and {}.", "Tell me the sum of {} and {}.")


def write(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_grpo_raises_exact_match_of_sums_it_was_not_trained_on(tmp_path, monkeypatch):
    """By the shipped recipes. Thirty rows are taught and forty rewarded; of the thirty left, which
    ask for sums in other words, more answers are right afterwards than before."""
    monkeypatch.chdir(tmp_path)
    rows = [
        {"prompt": phrase.format(a, b), "completion": str(a + b)}
        for phrase in PHRASES
        for a in range(5)
        for b in range(5)
    ]
    rows = [rows[i] for i in np.random.default_rng(0).permutation(len(rows))]
    write(tmp_path / "held-out.jsonl", rows[:30])
    write(tmp_path / "taught.jsonl", rows[30:60])
    write(tmp_path / "rewarded.jsonl", rows[60:])
    same = ["data.eval=held-out.jsonl", "train.dtype=float32", "train.save_steps=no", "--quiet"]
    words = ["sft-lora", "model=builtin:tiny", "data.train=taught.jsonl", "train.max_steps=50"]
    words += ["optim.learning_rate=3e-3", "output.name=taught"]
    assert main(["train", *words, *same]) == 0
    words = ["grpo-lora", "model=run:taught", "data.train=rewarded.jsonl", "eval.steps=25"]
    words += ["stage.rewards=exact_match", "output.name=rewarded"]
    assert main(["train", *words, *same]) == 0
    written = Path("runs/rewarded/metrics.jsonl").read_text().splitlines()
    lines = [json.loads(line) for line in written]
    before, *_, after = [line["eval_reward"] for line in lines if "eval_reward" in line]
    trained = [line["reward"] for line in lines if "loss" in line]
    print(f"exact match held out {before:.2f} → {after:.2f}; sampled {trained[0]:.2f} → "
          f"{trained[-1]:.2f}")  # fmt: skip
    assert after >= before + 0.1
    assert np.mean(trained[-4:]) >= np.mean(trained[:4]) + 0.1


@pytest.mark.shared
def test_ppo_raises_the_score_of_a_trained_reward_model(shared_data, tmp_path, monkeypatch):
    """Every weight of stories260K, as policy, critic's body and reward model; on a leash."""
    stories = shared_data / "models" / "stories260K" / "hf"
    names = ["Lily", "Tom", "Ben", "Sue", "Max", "Anna", "Tim", "Mia"]
    things = ["dog", "cat", "ball", "tree", "boat", "bird", "car", "bear"]
    begin = [f"Once upon a time, {name} had a {thing}." for name in names for thing in things]
    good = [" They were very happy and played all day.", " It was a fun day. They smiled.",
            " Everyone was happy.", " They loved to play together."]  # fmt: skip
    bad = [" It was very sad and cried all day.", " It was a bad day. They were scared.",
           " Everyone was sad.", " They did not want to play."]  # fmt: skip
    rng = np.random.default_rng(0)
    pick = lambda texts: "".join(rng.choice(texts, 2, replace=False))
    pairs = [{"prompt": b, "chosen": pick(good), "rejected": pick(bad)} for b in begin]
    write(tmp_path / "pairs.jsonl", pairs)
    judged = recipe.to_dict(recipe_of(stories, tmp_path, {"kind": "ppo"}, "judge"))
    judged |= {"stage": {"kind": "reward", "center_rewards_coefficient": 0.01}}
    judged["data"] |= {"train": [{"path": str(tmp_path / "pairs.jsonl")}], "template": "vanilla"}
    judged["train"] |= {"max_steps": 40, "per_device_train_batch_size": 16}
    judged["optim"] |= {"learning_rate": 1e-3, "adam_epsilon": 1e-8}
    judge = compose.train(recipe.from_dict(judged))
    right = [line["rewards/accuracies"] for line in judge.metrics() if "loss" in line]
    assert np.mean(right[-4:]) > 0.9

    kept = rounds(monkeypatch)
    data = write(tmp_path / "begin.jsonl", [{"prompt": b, "completion": " Yes."} for b in begin])
    stage = {"kind": "ppo", "rewards": [str(judge.path)], "max_completion_length": 48,
             "num_ppo_epochs": 2, "num_mini_batches": 2, "on_health": "stop"}  # fmt: skip
    run = compose.train(
        recipe_of(
            stories, tmp_path, stage, "rewarded",
            data={"train": str(data), "template": "vanilla"},
            train={"max_steps": 40, "per_device_train_batch_size": 32},
            optim={"learning_rate": 3e-4, "adam_epsilon": 1e-8},
        )
    )  # fmt: skip
    assert run.info()["state"] == "done"
    kl = [line["answer_kl"] for line in run.metrics() if "answer_kl" in line]
    error = standard_errors(kept[0], kept[-1])
    print(f"score {kept[0].mean():.3f} → {kept[-1].mean():.3f} ({error:.1f} standard errors), "
          f"KL at most {max(kl):.1f} nats")  # fmt: skip
    assert max(kl) < 30
    assert error >= 3
