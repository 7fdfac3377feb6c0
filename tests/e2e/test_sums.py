"""The recipes of sums/: learning from rewards raises what is right of questions held out, by more
than three standard errors, and PPO's KL stays under its line."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from tunesmith.cli.main import main

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sums")
    recipes = ["sums/1-sft", "sums/2-grpo", "sums/3-ppo"]
    words = [f"output.dir={folder}", "train.dtype=float32", "--quiet"]
    assert main(["train", *recipes, *words]) == 0
    return folder


def measured(runs: Path, name: str) -> tuple[float, float, int]:
    """Exact match held out, its standard error, and of how many questions."""
    assert main(["eval", name, "--dir", str(runs), "--name", "it"]) == 0
    results = runs / name.partition("@")[0] / "eval" / "it" / "results.json"
    found = json.loads(results.read_text())
    return found["metrics"]["exact_match"], found["standard_errors"]["exact_match"], found["rows"]


@pytest.mark.parametrize("name", ["sums-grpo", "sums-ppo"])
def test_held_out_sums_become_right(name, runs):
    before, error_before, rows = measured(runs, f"{name}@step-0")
    after, error_after, _ = measured(runs, name)
    error = math.hypot(error_before, error_after)
    print(f"{name}: {before:.3f} → {after:.3f} of {rows}, {(after - before) / error:.1f} errors")
    assert rows >= 200
    assert after - before >= 3 * error
    lines = [json.loads(line) for line in (runs / name / "metrics.jsonl").read_text().splitlines()]
    assert max((line.get("answer_kl", 0.0) for line in lines), default=0.0) < 30
