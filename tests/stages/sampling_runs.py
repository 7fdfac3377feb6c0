"""Small runs of stages that sample, for their tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tunesmith import compose, recipe

WORDS = ["sun", "moon", "tide", "hill", "lamp", "coin", "fern", "wolf"]


def questions(path: Path, count: int = 16) -> Path:
    """Rows with a question and a reference answer."""
    rows = [
        {"prompt": f"Say {WORDS[i % 8]} {i}", "completion": WORDS[-1 - i % 8]} for i in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def recipe_of(model: Path, folder: Path, stage: dict, name: str = "run", **changes: Any) -> Any:
    """A recipe; `changes` by section: train={"max_steps": 4}."""
    return recipe.from_dict(
        {
            "model": {"path": str(model)},
            "stage": stage if stage["kind"] == "sft" else {"max_completion_length": 8, **stage},
            "tuner": changes.get("tuner", "full"),
            "data": {
                "train": str(questions(folder / "questions.jsonl")),
                "num_proc": 1,
                **changes.get("data", {}),
            },
            "train": {
                "max_steps": 8,
                "per_device_train_batch_size": 4,
                "dtype": "float32",
                "logging_steps": 1,
                "save_steps": "no",
                **changes.get("train", {}),
            },
            "optim": {
                "learning_rate": 1e-3,
                "lr_scheduler_type": "constant",
                "adam_epsilon": 1e-4,
                **changes.get("optim", {}),
            },
            "eval": changes.get("eval", {"steps": "no"}),
            "output": {"dir": str(folder / "runs"), "name": name},
        }
    )


def train(*arguments: Any, display: Any = None, **changes: Any) -> Any:
    """A finished run of `recipe_of`."""
    return compose.train(recipe_of(*arguments, **changes), display=display)


class Lines(compose.Display):
    """Keeps what a run said."""

    def __init__(self):
        self.said: list[str] = []
        self.summary: dict[str, Any] = {}

    def line(self, topic: str, text: str) -> None:
        self.said.append(f"{topic}: {text}")

    def done(self, summary: dict[str, Any]) -> None:
        self.summary = summary
