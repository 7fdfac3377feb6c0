"""Reward models and DPO on real pairs and real models, by adapter and by every weight."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tunesmith import compose, recipe
from tunesmith.cli.main import main

pytestmark = [pytest.mark.slow, pytest.mark.shared]

HH = "preference/hh-rlhf/harmless-base-test.jsonl.gz"
OAAST = "instruct/llama-efficient-tuning-old/oaast_rm_zh.json"
STORIES = "models/stories260K/hf"


@pytest.fixture
def train(shared_data, tmp_path):
    """`train(model, data, stage, tuner, rate, steps)`: a run on 64 rows of a real file."""

    def train(model: str, data: str, stage, tuner, rate: float, steps: int = 40):
        small = not model.startswith("builtin:")
        found = str(shared_data / model) if small else model
        source = {"path": str(shared_data / data), "max_samples": 64}
        length = 256 if small else 384
        return compose.train(
            recipe.from_dict(
                {
                    "model": {"path": found},
                    "stage": stage,
                    "tuner": tuner,
                    "data": {"train": [source], "eval": {"count": 8}, "max_length": length,
                             "num_proc": 1, "template": "default" if small else "auto",
                             "on_finding": "warn"},
                    "train": {"max_steps": steps, "per_device_train_batch_size": 8,
                              "dtype": "float32", "logging_steps": 1, "save_steps": "no"},
                    "optim": {"learning_rate": rate, "warmup_steps": 4},
                    "output": {"dir": str(tmp_path / "runs"), "name": "real"},
                }
            )
        )  # fmt: skip

    return train


def mean(lines: list[dict], key: str) -> float:
    return sum(line[key] for line in lines) / len(lines)


CELLS = [
    pytest.param(STORIES, "full", 3e-3, id="stories260K-full"),
    pytest.param("builtin:tiny", {"kind": "lora", "r": 16}, 3e-3, id="tiny-lora"),
]


@pytest.mark.parametrize("data", [HH, OAAST], ids=["hh-rlhf", "oaast_rm_zh"])
@pytest.mark.parametrize(("model", "tuner", "rate"), CELLS)
def test_a_reward_model_of_real_pairs(model, tuner, rate, data, train, tmp_path, capsys):
    run = train(model, data, {"kind": "reward", "center_rewards_coefficient": 0.01}, tuner, rate)
    lines = [line for line in run.metrics() if "loss" in line]
    assert len(lines) == 40
    assert mean(lines[-7:], "rewards/accuracies") > 0.8 > mean(lines[:7], "rewards/accuracies")
    evals = [line for line in run.metrics() if "eval_loss" in line]
    assert 0 <= evals[-1]["eval_rewards/accuracies"] <= 1

    pairs = [{"prompt": "hello", "chosen": "good day", "rejected": "go away"}]
    (tmp_path / "pairs.jsonl").write_text(json.dumps(pairs[0]) + "\n")
    out = tmp_path / "out.jsonl"
    assert main(["score", str(run.path), str(tmp_path / "pairs.jsonl"), "-o", str(out)]) == 0
    assert set(json.loads(Path(out).read_text())) == {"chosen", "rejected"}


@pytest.mark.parametrize("file", ["dpo_en_demo", "dpo_zh_demo"])
@pytest.mark.parametrize(("model", "tuner", "rate"), CELLS)
def test_dpo_raises_margins_of_real_pairs(model, tuner, rate, file, train):
    data = f"instruct/llamafactory/{file}.json"
    run = train(model, data, {"kind": "dpo", "beta": 0.1}, tuner, rate / 3, steps=24)
    lines = [line for line in run.metrics() if "loss" in line]
    assert lines[0]["rewards/margins"] == pytest.approx(0, abs=1e-4)
    assert mean(lines[-7:], "rewards/margins") > 0.3
    assert mean(lines[-7:], "rewards/accuracies") > 0.7
    assert mean(lines[-7:], "loss") < 0.65
