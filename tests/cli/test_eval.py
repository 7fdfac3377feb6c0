"""`tunesmith eval`: what it prints and writes, other data, gates, and what it refuses."""

from __future__ import annotations

import json
import shutil

import pytest

from tunesmith import compose, recipe
from tunesmith.cli.main import main

WORDS = ["hill", "lamp", "coin", "fern", "tide", "wolf", "kite", "mill"]
PAIRS = [
    {"prompt": a, "chosen": f"{a} yes {b}", "rejected": f"no {b}"} for a in WORDS for b in WORDS
]


def write(path, rows) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def recipe_of(model, folder, stage, name, **data):
    return recipe.from_dict(
        {
            "model": {"path": str(model)},
            "stage": stage,
            "tuner": {"kind": "lora", "r": 4},
            "data": {"num_proc": 1, "max_length": 64, "on_finding": "warn", **data},
            "train": {"max_steps": 6, "per_device_train_batch_size": 8, "dtype": "float32",
                      "save_steps": 3},
            "optim": {"learning_rate": 1e-2},
            "output": {"dir": str(folder / "runs"), "name": name},
        }
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(tiny_model, tmp_path_factory):
    """A reward run with held-out pairs, one without, and a kto run."""
    path = tmp_path_factory.mktemp("evaluated")
    pairs = write(path / "pairs.jsonl", PAIRS[:40])
    write(path / "others.jsonl", PAIRS[40:])
    held = {"train": pairs, "eval": {"count": 10}}
    compose.train(recipe_of(tiny_model, path, {"kind": "reward"}, "judge", **held))
    compose.train(recipe_of(tiny_model, path, {"kind": "reward"}, "blind", train=pairs))
    verdicts = [
        {"prompt": row["prompt"], "completion": row["chosen"], "label": at % 3 > 0}
        for at, row in enumerate(PAIRS)
    ]
    held["train"] = write(path / "verdicts.jsonl", verdicts)
    compose.train(recipe_of(tiny_model, path, {"kind": "kto"}, "kto", **held))
    return path


def evaluate(folder, run, *words, capsys) -> dict:
    assert main(["eval", run, *words, "--dir", str(folder / "runs"), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_it_prints_and_writes_the_metrics_of_the_stage(folder, capsys):
    found = evaluate(folder, "judge", capsys=capsys)
    path = folder / "runs" / "judge" / "eval" / "held-out-step-6"
    assert json.loads((path / "results.json").read_text()) == found
    assert {"loss", "rewards/accuracies", "rewards/margins"} <= found["metrics"].keys()
    assert (found["rows"], found["weights"], found["step"]) == (10, "final", 6)
    assert found["settings"]["max_length"] == 64
    assert found["settings"]["resolved"]["dtype"] == "float32"
    rows = [json.loads(line) for line in (path / "samples.jsonl").read_text().splitlines()]
    assert len(rows) == 10
    assert all("pairs.jsonl:" in row["where"] for row in rows)
    right = sum(row["rewards/chosen"] > row["rewards/rejected"] for row in rows) / 10
    assert right == pytest.approx(found["metrics"]["rewards/accuracies"])
    error = (right * (1 - right) / 9) ** 0.5
    assert found["standard_errors"]["rewards/accuracies"] == pytest.approx(error)

    assert main(["eval", "judge", "--dir", str(folder / "runs")]) == 0
    told = capsys.readouterr()
    assert f"rewards/accuracies  {right:.4f} ± {error:.4f}" in told.out
    assert "held-out-step-6 (replaced)" in told.err
    assert "judge → final (step 6)" in told.err


def test_other_data_other_weights_another_name(folder, capsys):
    others = str(folder / "others.jsonl")
    found = evaluate(folder, "blind", "--data", others, capsys=capsys)
    assert (found["name"], found["rows"]) == ("others-step-6", 24)
    assert found["data"][0]["path"].endswith("others.jsonl")
    early = evaluate(folder, "blind@step-3", "--data", others, "--name", "early", capsys=capsys)
    assert (early["weights"], early["step"]) == ("step-3", 3)
    assert early["metrics"]["loss"] != found["metrics"]["loss"]
    assert (folder / "runs" / "blind" / "eval" / "early" / "samples.jsonl").is_file()
    final = evaluate(folder, str(folder / "runs/blind/final"), "--data", others, capsys=capsys)
    assert final["metrics"] == found["metrics"]


def test_a_run_without_final_is_evaluated_by_its_newest_checkpoint(folder, capsys, tmp_path):
    shutil.copytree(folder / "runs" / "judge", tmp_path / "runs" / "broken")
    shutil.rmtree(tmp_path / "runs" / "broken" / "final")
    found = evaluate(tmp_path, "broken", capsys=capsys)
    assert found["weights"] == "step-6"
    assert found["metrics"] == evaluate(folder, "judge", capsys=capsys)["metrics"]


def test_data_that_changed_since_is_told(folder, capsys):
    kept = (folder / "pairs.jsonl").read_text()
    (folder / "pairs.jsonl").write_text(kept.replace("yes", "yea"))
    try:
        assert main(["eval", "judge", "--dir", str(folder / "runs"), "--name", "changed"]) == 0
    finally:
        (folder / "pairs.jsonl").write_text(kept)
    assert "has changed since the training" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("gate", "code", "told"),
    [
        (["--min", "accuracy=0"], 0, ""),
        (["--min", "accuracy=0", "--max", "eval_loss=99"], 0, ""),
        (["--min", "accuracy=1.5"], 6, "G204"),
        (["--max", "loss=0", "--min", "margin=99"], 6, "margin is"),
        (["--min", "perplexity=1"], 2, "C236"),
        (["--min", "accuracy"], 2, "C235"),
        (["--min", "accuracy=high"], 2, "C235"),
        (["--name", "../up"], 2, "C237"),
    ],
)
def test_gates(gate, code, told, folder, capsys):
    assert main(["eval", "judge", *gate, "--dir", str(folder / "runs")]) == code
    assert told in capsys.readouterr().err


def test_an_unknown_metric_is_answered_with_those_there_are(folder, capsys):
    assert main(["eval", "judge", "--min", "losss=1", "--dir", str(folder / "runs")]) == 2
    told = capsys.readouterr().err
    assert "did you mean `loss`?" in told
    assert "rewards/accuracies" in told
    assert (folder / "runs/judge/eval/held-out-step-6/results.json").is_file()


@pytest.mark.parametrize(
    ("run", "told"), [("builtin:tiny", "C233"), ("blind", "C234"), ("nobody", "R105"),
                      ("judge@step-5", "R108")],
)  # fmt: skip
def test_what_can_not_be_evaluated(run, told, folder, capsys):
    assert main(["eval", run, "--dir", str(folder / "runs")]) in (1, 2)
    assert told in capsys.readouterr().err


def test_final_weights_that_are_not_there(tiny_model, tmp_path, capsys):
    rows = [{"prompt": a, "completion": a} for a in WORDS]
    data = write(tmp_path / "rows.jsonl", rows)
    made = recipe_of(tiny_model, tmp_path, {"kind": "sft"}, "whole", train=data, eval=data)
    made = recipe.from_dict({**recipe.to_dict(made), "tuner": {"kind": "full"}})
    run = compose.train(made)
    for file in (run.path / "final").glob("*.safetensors"):
        file.unlink()
    assert main(["eval", "whole", "--dir", str(tmp_path / "runs")]) == 1
    assert "R247" in capsys.readouterr().err


def test_the_loss_of_kto_does_not_depend_on_the_batch(folder, capsys):
    """z₀ is that of all evaluation data."""
    found = evaluate(folder, "kto", capsys=capsys)["metrics"]
    path = folder / "runs" / "kto" / "resolved.yaml"
    kept = path.read_text()
    try:
        for size in (1, 3, 10):
            wanted = f"per_device_eval_batch_size: {size}"
            path.write_text(kept.replace("per_device_eval_batch_size: null", wanted))
            other = evaluate(folder, "kto", capsys=capsys)
            assert other["settings"]["per_device_eval_batch_size"] == size
            assert other["metrics"] == pytest.approx(found, rel=1e-5, abs=1e-7)
    finally:
        path.write_text(kept)
