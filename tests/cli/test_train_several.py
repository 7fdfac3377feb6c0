"""`tunesmith train A B`: one process, each run as if it were alone."""

from __future__ import annotations

import json

import pytest

from tunesmith.cli.main import main
from tunesmith.rundir import RunDir
from tunesmith.training.log import TIMED

RECIPE = """
model: {model}
stage: sft
tuner: {{kind: lora, r: 2}}
data: {{train: rows.jsonl, max_length: 64, num_proc: 1, on_finding: warn}}
train: {{max_steps: 3, dtype: float32, logging_steps: 1, save_steps: "no"}}
output: {{name: {name}}}
"""


@pytest.fixture
def here(tiny_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [{"instruction": w, "output": w[::-1]} for w in ("lamp", "coin", "fern", "wolf")]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "one.yaml").write_text(RECIPE.format(model=tiny_model, name="one"))
    (tmp_path / "two.yaml").write_text(RECIPE.format(model="run:one", name="two"))
    return tmp_path


def numbers(folder) -> list[dict]:
    lines = RunDir.open(folder).metrics()
    return [{k: v for k, v in line.items() if k not in TIMED} for line in lines]


def test_each_builds_on_the_one_before_and_equals_a_process_of_its_own(here):
    assert main(["train", "one.yaml", "two.yaml", "--quiet"]) == 0
    apart = ["output.dir=apart", "--quiet"]
    assert main(["train", "one.yaml", *apart]) == 0
    assert main(["train", "two.yaml", "model=apart/one", *apart]) == 0
    for name in ("one", "two"):
        found = numbers(here / "runs" / name)
        assert len(found) == 3
        assert found == numbers(here / "apart" / name)


def test_a_mistake_in_the_last_one_is_told_before_the_first_is_trained(here, capsys):
    (here / "two.yaml").write_text("stage: sft\ntrian: {}\n")
    assert main(["train", "one.yaml", "two.yaml"]) == 2
    assert "trian" in capsys.readouterr().err
    assert not (here / "runs").exists()


@pytest.mark.parametrize("option", [["--dry-run"], ["--resume", "last"]])
def test_options_for_one_recipe(option, here, capsys):
    assert main(["train", "one.yaml", "two.yaml", *option]) == 2
    assert "C238" in capsys.readouterr().err
