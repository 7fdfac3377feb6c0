"""PPO: answers learned from a second, and how much of the time is spent in sampling them.

    python bench/ppo.py MODEL [--tuner lora] [--updates 8] [--batch 16] [--tokens 48]

Runs `stage: ppo` on beginnings of stories, with the count of a word as reward, in this process. The
last line is one JSON object: {"bench", "answers_per_second", "sampling_share", ...}.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
import time
from pathlib import Path
from typing import Any

NAMES = ["Lily", "Tom", "Ben", "Sue", "Max", "Anna", "Tim", "Mia"]
THINGS = ["dog", "cat", "ball", "tree", "boat", "bird", "car", "bear"]


def main() -> None:
    parser = argparse.ArgumentParser(description="Speed of PPO, and its share of sampling")
    parser.add_argument("model", help="a small story model, such as stories260K")
    parser.add_argument("--tuner", default="lora")
    parser.add_argument("--updates", type=int, default=8)
    parser.add_argument("--batch", type=int, default=16, help="prompts of an update")
    parser.add_argument("--tokens", type=int, default=48, help="longest answer")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-ppo-") as folder:
        print(json.dumps(measure(Path(folder), options)))


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """One run; the first round, which warms up, is not counted."""
    from tunesmith import compose, recipe
    from tunesmith.generation.torch import TorchGenerator

    rows = [
        {"prompt": f"Once upon a time, {name} had a {thing}.", "completion": " It was nice."}
        for name in NAMES
        for thing in THINGS
    ]
    data = folder / "begin.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    spans: list[tuple[float, float]] = []
    generate = TorchGenerator.generate

    def timed(self, requests):
        start = time.perf_counter()
        found = generate(self, requests)
        spans.append((start, time.perf_counter()))
        return found

    TorchGenerator.generate = timed
    epochs = 2
    compose.train(
        recipe.from_dict(
            {
                "model": {"path": options.model},
                "stage": {
                    "kind": "ppo",
                    "rewards": [{"path": "token_count", "argument": " big"}],
                    "max_completion_length": options.tokens,
                    "num_ppo_epochs": epochs,
                },
                "tuner": options.tuner,
                "data": {"train": str(data), "template": "vanilla", "num_proc": 1},
                "train": {
                    "max_steps": options.updates,
                    "per_device_train_batch_size": options.batch,
                    "save_steps": "no",
                    "dtype": "float32",
                },
                "output": {"dir": str(folder / "runs"), "name": "ppo"},
            }
        )
    )
    rounds = list(itertools.pairwise(spans))[1:]  # from one sampling to the next
    whole = sum(after[0] - before[0] for before, after in rounds)
    sampling = sum(before[1] - before[0] for before, _ in rounds)
    return {
        "bench": "ppo",
        "tuner": options.tuner,
        "answers_per_second": round(len(rounds) * options.batch / whole, 2),
        "updates_per_second": round(len(rounds) * epochs / whole, 3),
        "sampling_share": round(sampling / whole, 3),
        "rounds": len(rounds),
    }


if __name__ == "__main__":
    main()
