"""The whole chain on the embedded model, by the shipped recipes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.house.source import PACKAGE
from tunesmith.cli.main import main

LINKS = sorted(path.stem for path in (PACKAGE / "recipes" / "chain").glob("*.yaml"))


def last(name: str, key: str) -> float:
    lines = Path("runs", name, "metrics.jsonl").read_text().splitlines()
    return [found[key] for line in lines if key in (found := json.loads(line))][-1]


@pytest.mark.slow
def test_each_link_builds_on_the_one_before(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert LINKS[:4] == ["1-pretrain", "2-sft", "3-reward", "4-dpo"]
    for link in LINKS[:4]:
        assert main(["train", f"chain/{link}", "train.dtype=float32"]) == 0
    assert last("chain-sft", "eval_loss") < 1.0
    assert last("chain-reward", "eval_rewards/accuracies") > 0.6
    assert last("chain-dpo", "eval_rewards/margins") > 0
    assert last("chain-dpo", "eval_rewards/accuracies") > 0.6
    bases = [
        json.loads(Path("runs", name, "run.json").read_text())["base"]["path"]
        for name in ("chain-reward", "chain-dpo")
    ]
    assert all(base.endswith("runs/chain-sft/final") for base in bases)
    capsys.readouterr()
    words = ["score", "chain-reward", "builtin:demo/pairs.jsonl", "-o", "scores.jsonl", "--json"]
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out)["accuracy"] > 0.7
