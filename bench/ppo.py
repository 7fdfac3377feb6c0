"""PPO: answers learned from a second, and how much of the time is spent in sampling them.

    python bench/ppo.py [MODEL] [--tuner lora] [--updates 8] [--batch 16] [--tokens 48]

Runs `stage: ppo` on beginnings of stories, with the count of a word as reward, in this process. The
last line is one JSON object: {"bench", "answers_per_second", "sampling_share", ...}. On a machine
that has other work too, believe the numbers of processor time: `..._cpu...`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

NAMES = ["Lily", "Tom", "Ben", "Sue", "Max", "Anna", "Tim", "Mia"]
THINGS = ["dog", "cat", "ball", "tree", "boat", "bird", "car", "bear"]


def main() -> None:
    parser = argparse.ArgumentParser(description="Speed of PPO, and its share of sampling")
    parser.add_argument("model", nargs="?", default="builtin:tiny", help="such as stories260K")
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

    rows = [
        {"prompt": f"Once upon a time, {name} had a {thing}.", "completion": " It was nice."}
        for name in NAMES
        for thing in THINGS
    ]
    data = folder / "begin.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    spans = watched()
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
    whole, sampling = spent(rounds)
    print(
        f"{len(rounds)} rounds of {options.batch} answers in {whole.wall:.1f} s "
        f"({whole.cpu:.1f} s of processors), {sampling.cpu / whole.cpu:.0%} of it in sampling"
    )
    return {
        "bench": "ppo",
        "tuner": options.tuner,
        "answers_per_second": round(len(rounds) * options.batch / whole.wall, 2),
        "answers_per_cpu_second": round(len(rounds) * options.batch / whole.cpu, 2),
        "updates_per_second": round(len(rounds) * epochs / whole.wall, 3),
        "sampling_share": round(sampling.wall / whole.wall, 3),
        "sampling_cpu_share": round(sampling.cpu / whole.cpu, 3),
        "rounds": len(rounds),
    }


class Clock(NamedTuple):
    """Seconds, of the wall and of this process's processors."""

    wall: float
    cpu: float

    @classmethod
    def now(cls) -> Clock:
        return cls(time.perf_counter(), time.process_time())

    def since(self, start: Clock) -> Clock:
        return Clock(self.wall - start.wall, self.cpu - start.cpu)


Span = tuple[Clock, Clock]


def watched() -> list[Span]:
    """Begin and end of each sampling from now on."""
    from tunesmith.generation.torch import TorchGenerator

    spans: list[Span] = []
    generate = TorchGenerator.generate

    def timed(self, requests):
        start = Clock.now()
        found = generate(self, requests)
        spans.append((start, Clock.now()))
        return found

    TorchGenerator.generate = timed
    return spans


def spent(rounds: list[tuple[Span, Span]]) -> tuple[Clock, Clock]:
    """Time of all rounds, and of their samplings."""
    whole = [after[0].since(before[0]) for before, after in rounds]
    sampling = [before[1].since(before[0]) for before, _ in rounds]
    add = lambda clocks: Clock(sum(c.wall for c in clocks), sum(c.cpu for c in clocks))
    return add(whole), add(sampling)


if __name__ == "__main__":
    main()
