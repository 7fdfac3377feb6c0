"""The whole chain on the embedded model, by the shipped recipes and the very target of the
Makefile: pretrain, fine-tune, reward model, then DPO and PPO."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from tests.house.source import PACKAGE, ROOT

LINKS = sorted(path.stem for path in (PACKAGE / "recipes" / "chain").glob("*.yaml"))


def values(run: Path, key: str) -> list[float]:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [found[key] for line in lines if key in (found := json.loads(line))]


@pytest.fixture
def chain(tmp_path) -> Path:
    """The folder of runs that `make chain` leaves, with this Python in the place of .venv's."""
    runs = tmp_path / "runs"
    runs.mkdir()
    for stamp in (".python", ".base"):  # as after an install
        (tmp_path / stamp).touch()
    found = subprocess.run(
        ["make", "chain", f"VENV={tmp_path}", f"BIN={Path(sys.executable).parent}",
         f"RUNS={runs}", "ARGS=train.dtype=float32"],
        cwd=ROOT, capture_output=True, text=True, timeout=1500,
    )  # fmt: skip
    assert found.returncode == 0, found.stdout[-5000:] + found.stderr[-5000:]
    return runs


@pytest.mark.slow
def test_each_link_builds_on_the_one_before(chain):
    assert LINKS == ["1-pretrain", "2-sft", "3-reward", "4-dpo", "5-ppo"]
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"processor time of the chain: {used.ru_utime + used.ru_stime:.0f} s")
    assert values(chain / "chain-sft", "eval_loss")[-1] < 1.0
    assert values(chain / "chain-reward", "eval_rewards/accuracies")[-1] > 0.6
    assert values(chain / "chain-dpo", "eval_rewards/margins")[-1] > 0
    assert values(chain / "chain-dpo", "eval_rewards/accuracies")[-1] > 0.6
    rewards = values(chain / "chain-ppo", "eval_reward")
    assert rewards[-1] > rewards[0]
    assert max(values(chain / "chain-ppo", "answer_kl")) < 30
    for name in ("chain-reward", "chain-dpo", "chain-ppo"):
        base = json.loads((chain / name / "run.json").read_text())["base"]["path"]
        assert base.endswith("runs/chain-sft/final")
    pairs = [json.loads(line) for line in (chain / "scores.jsonl").read_text().splitlines()]
    right = [pair["chosen"] > pair["rejected"] for pair in pairs]
    assert sum(right) / len(right) > 0.7
