"""The spine on real input: a recipe tunes a real model on real data, resumes, merges, talks."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tunesmith.cli.main import main


def tunesmith(*words: str) -> None:
    """Runs a command line in this process; it must succeed."""
    assert main(list(words)) == 0


def metrics(name: str) -> list[dict]:
    lines = Path("runs", name, "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


STORIES = "models/stories260K/hf"


@pytest.mark.parametrize(
    ("model", "file", "rows"),
    [
        (STORIES, "instruct/alpaca_data.json", 400),
        (STORIES, "instruct/llms_tool/finetune/example/train", None),
        pytest.param(STORIES, "instruct/misc/dev1K.json", 200, marks=pytest.mark.slow),
        *(
            pytest.param("builtin:tiny", file, 300, marks=pytest.mark.slow)
            for file in (
                "instruct/alpaca_data.json",
                "instruct/llms_tool/finetune/example/train",
                "instruct/misc/dev1K.json",
            )
        ),
    ],
)
def test_sft_falls_resumes_merges_and_talks(
    here, shared_data, capsys, monkeypatch, model, file, rows
):
    model = model if ":" in model else str(shared_data / model)
    source = {"path": str(shared_data / file)} | ({"max_samples": rows} if rows else {})
    recipe = {
        "model": model,
        "data": {
            "train": [source],
            "on_bad_row": "skip",
            "max_length": 256,
            "num_proc": 1,
            "on_overlength": "truncate",
        },
        "train": {"max_steps": 6, "save_steps": 6, "dtype": "float32", "logging_steps": 3},
        "optim": {"learning_rate": 3e-3, "lr_scheduler_type": "constant"},
        "output": {"name": "spine"},
    }
    Path("recipe.yaml").write_text(json.dumps(recipe))  # JSON is YAML
    tunesmith("train", "recipe.yaml")
    tunesmith("resume", "last", "train.max_steps=12")
    losses = [line["loss"] for line in metrics("spine") if "loss" in line]
    assert losses[-1] < losses[0]
    saved = Path("runs/spine/checkpoints/step-12")
    assert saved.is_dir()
    tunesmith("merge", "last", "-o", "merged")
    assert Path("merged/config.json").is_file()
    capsys.readouterr()
    tunesmith("generate", "merged", "-p", "Once upon a time", "--max-tokens", "8")
    merged = capsys.readouterr().out
    tunesmith("generate", "last", "-p", "Once upon a time", "--max-tokens", "8")
    assert capsys.readouterr().out == merged != ""
    monkeypatch.setattr(sys, "stdin", io.StringIO("hi\nclear\nexit\n"))
    tunesmith("chat", "last", "--max-tokens", "8")
    assert "History has been removed." in capsys.readouterr().out


@pytest.mark.slow
def test_continued_pretraining_lowers_perplexity(here, shared_data):
    tunesmith(
        "train",
        f"model={shared_data / 'models/babyllama105/hf'}",
        "stage=pretrain",
        "tuner=full",
        f"data.train={shared_data / 'text/tinyshakespeare/input.txt'}",
        "data.eval.count=200",
        "data.max_length=128",
        "train.max_steps=15",
        "train.dtype=float32",
        "optim.learning_rate=1e-3",
        "output.name=shakespeare",
    )
    perplexity = [m["eval_perplexity"] for m in metrics("shakespeare") if "eval_perplexity" in m]
    assert perplexity[-1] < 0.8 * perplexity[0]


@pytest.mark.slow
def test_sigterm_saves_and_exits_143_then_resumes(here, tiny_model):
    Path("rows.jsonl").write_text(
        "".join(json.dumps({"prompt": f"Say {i}", "completion": f"{i}"}) + "\n" for i in range(64))
    )
    words = [
        sys.executable,
        "-m",
        "tunesmith.cli.main",
        "train",
        f"model={tiny_model}",
        "data.train=rows.jsonl",
        "train.num_train_epochs=400",
        "train.logging_steps=1",
        "train.dtype=float32",
        "output.name=long",
    ]
    process = subprocess.Popen(words, env=os.environ, stderr=subprocess.PIPE, text=True)
    log = Path("runs/long/metrics.jsonl")
    while not (log.is_file() and len(log.read_text().splitlines()) >= 3):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 143, errors
    assert "stop    after this step" in errors
    assert "tunesmith resume long" in errors
    info = json.loads(Path("runs/long/run.json").read_text())
    assert info["state"] == "stopped"
    steps = info["step"]
    assert Path(f"runs/long/checkpoints/step-{steps}").is_dir()


def test_best_checkpoint_becomes_final_and_samples_are_written(here, tiny_model):
    Path("rows.jsonl").write_text(
        "".join(json.dumps({"prompt": f"Say {i}", "completion": f"{i}"}) + "\n" for i in range(32))
    )
    tunesmith(
        "train",
        f"model={tiny_model}",
        "tuner=full",
        "data.train=rows.jsonl",
        "data.eval.count=8",
        "train.max_steps=6",
        "train.dtype=float32",
        "optim.learning_rate=0.05",
        "eval.steps=1",
        "eval.generate=2",
        "eval.load_best_model_at_end=true",
        "output.name=best",
    )
    evals = {m["step"]: m["eval_loss"] for m in metrics("best") if "eval_loss" in m}
    del evals[0]
    info = json.loads(Path("runs/best/run.json").read_text())
    assert info["final"] == min(evals, key=evals.get)
    lines = [json.loads(x) for x in Path("runs/best/samples.jsonl").read_text().splitlines()]
    assert {line["step"] for line in lines} == set(range(7))
    assert {"prompt", "answer", "reference"} <= set(lines[0])


def test_a_run_stacks_on_an_adapter_run(here, tiny_model):
    Path("rows.jsonl").write_text(
        "".join(json.dumps({"prompt": f"Say {i}", "completion": f"{i}"}) + "\n" for i in range(32))
    )
    common = ["data.train=rows.jsonl", "train.max_steps=4", "train.dtype=float32"]
    tunesmith("train", f"model={tiny_model}", *common, "output.name=first")
    tunesmith("train", "model=run:first", *common, "output.name=second")
    info = json.loads(Path("runs/second/run.json").read_text())
    assert info["parent"] == "first"
    (source,) = info["data"]["train"]
    assert source["path"].endswith("rows.jsonl")
    assert len(source["sha256"]) == 64
    log = Path("runs/second/log.txt").read_text()
    assert all(f" {topic:<7} " in log for topic in ("data", "model", "tuner", "plan", "done"))
    # PEFT would lay the adapter over one and compute something else.
    named = json.loads(Path("runs/second/final/adapter_config.json").read_text())
    assert "tunesmith merge run:first first" in named["base_model_name_or_path"]
    assert "merge that first" in Path("runs/second/final/README.md").read_text()
    assert "merge that first" not in Path("runs/first/final/README.md").read_text()
    modes = {file.stat().st_mode for file in Path("runs/second/final").iterdir()}
    assert len(modes) == 1  # all as the umask says
    first = [m["loss"] for m in metrics("first") if "loss" in m]
    second = [m["loss"] for m in metrics("second") if "loss" in m]
    assert second[0] < first[0]
    tunesmith("merge", "second", "-o", "merged")
    assert Path("merged/config.json").is_file()


def test_time_left_counts_evaluations_still_to_come(here, tiny_model):
    rows = [json.dumps({"prompt": f"Say {i}", "completion": f"{i}"}) for i in range(24)]
    Path("rows.jsonl").write_text("\n".join(rows))
    tunesmith(
        "train",
        f"model={tiny_model}",
        "data.train=rows.jsonl",
        "data.eval.count=8",
        "train.max_steps=6",
        "train.logging_steps=1",
        "train.save_steps=3",
        "eval.steps=2",
        "output.name=paced",
    )
    steps = {line["step"]: line for line in metrics("paced") if "loss" in line}
    assert (steps[1]["tokens_per_second"], steps[1]["eta_s"]) == (None, None)
    assert all(steps[n]["tokens_per_second"] > 0 for n in range(2, 7))
    assert steps[6]["eta_s"] > 0  # the evaluation and the checkpoint of this step are to come


@pytest.mark.slow
def test_a_full_disk_ends_the_run_with_exit_1_and_it_goes_on_later(here, tiny_model):
    """RLIMIT_FSIZE stands for the disk: files may grow to so many bytes and no further."""
    rows = [json.dumps({"prompt": f"Say {i}", "completion": f"{i}"}) for i in range(24)]
    Path("rows.jsonl").write_text("\n".join(rows))
    train = [
        "train",
        f"model={tiny_model}",
        "data.train=rows.jsonl",
        "data.num_proc=1",
        "train.max_steps=60",
        "train.logging_steps=1",
        "train.save_steps=3",
        "output.name=full",
    ]
    script = (
        "import resource, sys\n"
        "from tunesmith.cli.main import main\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (BYTES, resource.RLIM_INFINITY))\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )

    def run(limit: int, *words: str) -> subprocess.CompletedProcess:
        code = script.replace("BYTES", str(limit))
        words = (sys.executable, "-c", code, *words)
        return subprocess.run(words, capture_output=True, text=True, check=False)

    ended = run(8_000, *train)  # metrics.jsonl does not fit
    assert ended.returncode == 1, ended.stderr
    assert "error[R1" in ended.stderr
    assert "File too large" in ended.stderr
    assert "Traceback" not in ended.stderr
    info = json.loads(Path("runs/full/run.json").read_text())
    assert (info["state"], info["exit_code"]) == ("failed", 1)
    ended = run(-1, "resume", "full")
    assert ended.returncode == 0, ended.stderr
    assert json.loads(Path("runs/full/run.json").read_text())["state"] == "done"


def test_train_resume_refuses_a_recipe_that_has_changed(here, tiny_model, capsys):
    rows = [json.dumps({"prompt": f"Say {i}", "completion": f"{i}"}) for i in range(8)]
    Path("rows.jsonl").write_text("\n".join(rows))
    recipe = {
        "model": str(tiny_model),
        "data": "rows.jsonl",
        "train": {"max_steps": 2},
        "optim": {"lr_scheduler_type": "constant"},
        "output": {"name": "first"},
    }
    Path("recipe.yaml").write_text(json.dumps(recipe))
    tunesmith("train", "recipe.yaml")
    recipe["train"]["max_steps"] = 4
    Path("recipe.yaml").write_text(json.dumps(recipe))
    tunesmith("train", "recipe.yaml", "--resume", "first")
    assert metrics("first")[-1]["step"] == 4
    recipe["optim"]["learning_rate"] = 1e-3
    Path("recipe.yaml").write_text(json.dumps(recipe))
    assert main(["train", "recipe.yaml", "--resume", "first"]) == 2
    assert "can't change optim.learning_rate" in capsys.readouterr().err


def test_resume_refuses_a_recipe_that_was_edited_in_the_run(here, tiny_model, capsys):
    rows = [json.dumps({"prompt": f"Say {i}", "completion": f"{i}"}) for i in range(8)]
    Path("rows.jsonl").write_text("\n".join(rows))
    Path("recipe.yaml").write_text(
        f"model: {tiny_model}\ndata: rows.jsonl\ntrain: {{max_steps: 2, seed: 1}}\n"
        "optim: {lr_scheduler_type: constant, learning_rate: 1e-4}\noutput: {name: first}\n"
    )
    tunesmith("train", "recipe.yaml", "train.seed=7")
    own = Path("runs/first/recipe.yaml")
    text = own.read_text()
    own.write_text("# what a comment says changes nothing, nor does what was overridden\n" + text)
    tunesmith("resume", "first", "train.max_steps=3")
    assert metrics("first")[-1]["step"] == 3
    own.write_text(text.replace("1e-4", "1e-3"))
    assert main(["resume", "first", "train.max_steps=4"]) == 2
    assert "can't change optim.learning_rate" in capsys.readouterr().err
    own.unlink()
    tunesmith("resume", "first", "train.max_steps=4")
