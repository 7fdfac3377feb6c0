"""LAW: kill `tunesmith train` anywhere; after `tunesmith resume` the final weights have the same
sha256 as those of a run that nobody killed, and metrics.jsonl has the same numbers."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from tests.crash import faults
from tests.crash.conftest import memory_folder
from tests.crash.trainer import Answer, Trainer
from tunesmith.training import checkpoint

SETUPS = {
    "sft-lora": {
        "stage": {"kind": "sft", "neftune_noise_alpha": 5.0},
        "tuner": {"kind": "lora", "r": 4, "lora_dropout": 0.1},
        "packing": "pack",
    },
    "pretrain-full": {"stage": "pretrain", "tuner": "full", "packing": "none"},
}
TIMED = {"tokens_per_second", "memory_gb", "elapsed_s", "eta_s"}
WORDS = ["sun", "moon", "tide", "hill", "lamp", "coin", "fern", "wolf", "kite", "mill"]


class Stand(NamedTuple):
    """A warmed trainer, a recipe, and what an uninterrupted run of it leaves."""

    trainer: Trainer
    recipe: Path
    folder: Path
    whole: dict[str, Any]
    seconds: float
    """How long a run takes in a forked child."""
    operations: list[faults.Operation]
    """File operations of the run, in order; the same in every run."""

    @property
    def run(self) -> Path:
        return self.folder / "runs" / "killed"

    def train(self, **fault: Any) -> Answer:
        """`tunesmith train` from nothing."""
        shutil.rmtree(self.run, ignore_errors=True)
        words = ("train", str(self.recipe), "output.name=killed", "--quiet")
        return self.trainer.run(*words, root=self.run, fault=fault)

    def resume(self, **fault: Any) -> Answer:
        return self.trainer.run("resume", str(self.run), root=self.run, fault=fault)

    def finish(self) -> str:
        """Resumes to the end as a user would, and checks the law; returns what was printed."""
        output = ""
        if not (self.run / "run.json").exists():  # killed before there was anything to resume
            answer = self.train()
            assert answer.code == 0, answer.output
        elif json.loads((self.run / "run.json").read_text())["state"] != "done":
            answer = self.resume()
            assert answer.code == 0, answer.output
            output = answer.output
        assert results(self.run) == self.whole
        aside = [*self.run.glob("checkpoints/.*"), *self.run.glob(".final-*")]
        assert aside == []
        return output


def results(run: Path) -> dict[str, Any]:
    """sha256 of the final weights and the last checkpoint's tensors; metrics less their times."""
    files = [*run.glob("final/*.safetensors"), *checkpoint.newest(run).path.glob("*.safetensors")]
    assert len(files) >= 3
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {
        "sha256": {str(f.relative_to(run)): tensors_digest(f) for f in files},
        "metrics": [{k: v for k, v in line.items() if k not in TIMED} for line in lines],
        "state": json.loads((run / "run.json").read_text())["state"],
    }


def tensors_digest(path: Path) -> str:
    """sha256 of a safetensors file but for its header's metadata, which holds the save's id."""
    raw = path.read_bytes()
    end = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:end])
    header.pop("__metadata__", None)
    return hashlib.sha256(json.dumps(header, sort_keys=True).encode() + raw[end:]).hexdigest()


def write_recipe(folder: Path, setup: dict[str, Any], model: Path) -> Path:
    """A run of nine steps with every source of randomness, saving every two."""
    rows = [
        {"instruction": f"Say {WORDS[i % 10]} {i}", "input": "", "output": WORDS[-1 - i % 10] * 2}
        for i in range(20)
    ]
    if setup["stage"] == "pretrain":
        rows = [{"text": " ".join(WORDS[i % 7 :]) * (1 + i % 3)} for i in range(20)]
    data = folder / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = {
        "model": {"path": str(model)},
        "stage": setup["stage"],
        "tuner": setup["tuner"],
        "data": {
            "train": str(data),
            "eval": {"count": 4},
            "max_length": 96,
            "packing": setup["packing"],
            "num_proc": 1,
        },
        "train": {
            "max_steps": 9,
            "per_device_train_batch_size": 1,
            "gradient_accumulation_steps": 2,
            "save_steps": 2,
            "save_total_limit": 2,
            "logging_steps": 1,
            "dtype": "float32",
            "threads": 1,
        },
        "optim": {"learning_rate": 1e-2, "warmup_steps": 2},
        "eval": {"steps": 4, "load_best_model_at_end": True},
        "output": {"dir": str(folder / "runs")},
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


@pytest.fixture(scope="module")
def trainer(tmp_path_factory) -> Iterator[Trainer]:
    trainer = Trainer(tmp_path_factory.mktemp("trainer") / "output.log")
    yield trainer
    trainer.close()


@pytest.fixture(
    scope="module",
    params=[pytest.param("sft-lora", marks=pytest.mark.slow), "pretrain-full"],
)
def stand(request, trainer, tiny_model, tmp_path_factory) -> Iterator[Stand]:
    with memory_folder(tmp_path_factory.mktemp("stand")) as folder:
        yield stand_in(folder, SETUPS[request.param], trainer, tiny_model)


def stand_in(folder: Path, setup: dict[str, Any], trainer: Trainer, model: Path) -> Stand:
    """A stand whose uninterrupted run is done, twice, with the same result."""
    recipe = write_recipe(folder, setup, model)
    words = ("train", str(recipe), "--quiet")
    first = trainer.warm(*words, "output.name=first")
    assert first.code == 0, first.output
    whole = results(folder / "runs" / "first")
    assert whole["state"] == "done"
    stand = Stand(trainer, recipe, folder, whole, 0.0, [])
    second = stand.train(record=str(folder / "operations"))
    assert second.code == 0, second.output
    assert results(stand.run) == whole
    found = faults.recorded(folder / "operations")
    return stand._replace(operations=found, seconds=second.seconds)


def of_save(found: list[faults.Operation], step: int) -> range:
    """Positions of the operations of the save of one step, its pruning included."""
    first = next(i for i, op in enumerate(found) if f"/.tmp-{step}-" in op.path)
    last = first
    while "/checkpoints" in found[last].path or not Path(found[last].path).is_absolute():
        last += 1
    return range(first, last)


def test_killed_inside_a_save_and_inside_a_step(stand):
    found = stand.operations
    save = of_save(found, 6)
    assert len(save) >= 25
    commit = next(i for i in save if found[i].name == "os.rename")
    assert stand.train(at=commit, kind="torn").killed
    assert "from step 4" in stand.finish()
    line = [i for i, op in enumerate(found) if op.path.endswith("metrics.jsonl")]
    assert stand.train(at=line[-1], kind="kill").killed  # the line of step 9, after the last save
    assert "from step 8" in stand.finish()


def test_a_damaged_newest_checkpoint_is_passed_over(stand):
    found = stand.operations
    assert stand.train(at=of_save(found, 8)[-1], kind="kill").killed
    newest = checkpoint.newest(stand.run)
    path = newest.path / "optimizer-00000-of-00001.safetensors"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
    output = stand.finish()
    assert f"skipped {newest.path.name}: {path.name} was changed after it was written" in output
    assert "from step 6" in output


@pytest.mark.slow
@pytest.mark.parametrize("kind", faults.KINDS)
def test_killed_at_every_operation_of_a_save(stand, kind):
    save = of_save(stand.operations, 6)
    for at in save:
        assert stand.train(at=at, kind=kind).killed
        stand.finish()


@pytest.mark.slow
def test_killed_at_every_operation_outside_of_saves(stand):
    """While the run directory is made, a metrics line is written, final/ is put in place …"""
    found = stand.operations
    saves = {at for step in (2, 4, 6, 8) for at in of_save(found, step)}
    for at in sorted(set(range(len(found))) - saves):
        assert stand.train(at=at, kind="kill").killed
        stand.finish()


@pytest.mark.slow
def test_killed_at_50_random_moments(stand):
    rng = random.Random(0)
    killed, seconds = 0, stand.seconds
    while killed < 50:
        moment = rng.uniform(0.0, seconds)
        if stand.train(after=moment).killed:
            killed += 1
        else:
            seconds = max(seconds * 0.8, 0.05)  # a machine that has become faster: aim earlier
        if rng.random() < 0.3 and (stand.run / "run.json").exists():
            stand.resume(after=rng.uniform(0.0, seconds))
        stand.finish()
