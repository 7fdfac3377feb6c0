"""LAW: a run that stops and resumes equals the uninterrupted one, bit for bit: weights, optimizer,
metrics less the fields of time and memory."""

from __future__ import annotations

import hashlib
import json
import signal

import pytest

from tunesmith import compose, recipe, registry
from tunesmith.training import checkpoint
from tunesmith.training.log import TIMED
from tunesmith.types import Conversation, Document, Feedback, Preference

STAGES = registry.names("stages")
LENGTH = {"rewards": [{"path": "length", "argument": "5"}], "max_completion_length": 8}
# Rounds of several updates, so that a stop falls into the middle of one.
SAMPLING: dict[str, dict] = {
    "grpo": {**LENGTH, "num_generations": 3, "num_iterations": 2, "steps_per_generation": 2,
             "beta": 0.1},
    "rloo": {**LENGTH, "num_generations": 2, "num_iterations": 3},
    "ppo": {**LENGTH, "num_ppo_epochs": 2, "num_mini_batches": 2, "kl_target": 1.0,
            "normalize_scores": True, "entropy_coef": 0.01},
}  # fmt: skip


def rows(kind: type) -> list[dict]:
    """Twenty rows of a stage's sample type."""
    words = ["sun", "moon", "tide", "hill", "lamp", "coin", "fern", "wolf", "kite", "mill"]
    if kind is Document:
        return [{"text": " ".join(words[i % 7 :]) * (1 + i % 3)} for i in range(20)]
    if kind is Conversation:
        return [
            {
                "instruction": f"Say {words[i % 10]} {i}",
                "input": "",
                "output": words[-1 - i % 10] * 2,
            }
            for i in range(20)
        ]
    if kind is Preference:
        return [
            {"prompt": f"Say {words[i % 10]} {i}", "chosen": words[-1 - i % 10], "rejected": "Nay"}
            for i in range(20)
        ]
    if kind is Feedback:
        return [
            {
                "prompt": f"Say {words[i % 10]} {i}",
                "completion": words[-1 - i % 10],
                "label": i % 3 > 0,
            }
            for i in range(20)
        ]
    raise KeyError(f"no law rows for {kind}: add them here")


LORA = {"kind": "lora", "r": 4, "lora_dropout": 0.1}
PROMPT = {"kind": "prompt", "tokens": 4}
PREFIX = {"kind": "prefix", "tokens": 4, "projection": True, "hidden": 8}
CELLS = [(stage, LORA) for stage in STAGES]
CELLS += [("sft", PROMPT), ("sft", PREFIX), ("dpo", PROMPT), ("grpo", PREFIX)]


def name_of(cell: tuple[str, dict]) -> str:
    return f"{cell[0]}-{cell[1]['kind']}"


@pytest.fixture(scope="module", params=CELLS, ids=name_of)
def make_recipe(request, tiny_model, written_teacher, tmp_path_factory):
    """`make_recipe(run)`: a recipe of the stage with every source of randomness switched on."""
    name, tuner = request.param
    if name == "distill":
        SAMPLING["distill"] = {"teacher": str(written_teacher), "lmbda": 0.5,
                               "max_completion_length": 8}  # fmt: skip
    folder = tmp_path_factory.mktemp("cell")
    data = folder / "rows.jsonl"
    kind = registry.load("stages", name).sample[0]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows(kind)))

    def make(run: str, **changes):
        stage: dict = {"kind": name}
        if name == "sft":
            stage["neftune_noise_alpha"] = 5.0
        stage |= SAMPLING.get(name, {})
        return recipe.from_dict(
            {
                "model": {"path": str(tiny_model)},
                "stage": stage,
                "tuner": tuner,
                "data": {
                    "train": str(data),
                    "eval": {"count": 4},
                    "max_length": 96,
                    "packing": "pack",
                    "num_proc": 1,
                },
                "train": {
                    "max_steps": 9,
                    "per_device_train_batch_size": 1,
                    "gradient_accumulation_steps": 2,
                    "save_steps": 2,
                    "logging_steps": 3,
                    "dtype": "float32",
                    **changes,
                },
                "optim": {"learning_rate": 1e-2, "warmup_steps": 2},
                "eval": {"steps": 4},
                "output": {"dir": str(folder / "runs"), "name": run},
            }
        )

    return make


@pytest.fixture(scope="module")
def whole(make_recipe):
    """The uninterrupted run."""
    return compose.train(make_recipe("whole", save_total_limit=None))


# Some stages, where a test of all of them would only say again what stopped runs say.
FEW = pytest.mark.parametrize(
    "make_recipe", [("sft", LORA), ("grpo", PREFIX)], indirect=True, ids=name_of
)
ONE = pytest.mark.parametrize("make_recipe", [("sft", LORA)], indirect=True, ids=name_of)


class StopAt(compose.Display):
    """Asks a run to stop once it has logged a step, as a user's Ctrl-C would."""

    def __init__(self, step: int):
        self.step = step

    def metrics(self, line):
        if line["step"] == self.step and "loss" in line:
            signal.raise_signal(signal.SIGTERM)


def numbers(run) -> list[dict]:
    """metrics.jsonl without the fields that measure time and memory."""
    return [{k: v for k, v in line.items() if k not in TIMED} for line in run.metrics()]


def digest(run, step: int) -> dict[str, str]:
    """sha256 of every tensor of a checkpoint: weights and optimizer."""
    saved = checkpoint.open_step(run.path, step)
    tensors = {**saved.weights(), **saved.optimizer()}
    assert len(tensors) > 2
    return {n: hashlib.sha256(t.numpy().tobytes()).hexdigest() for n, t in tensors.items()}


def test_stopped_and_resumed_equals_uninterrupted(make_recipe, whole):
    broken = compose.train(make_recipe("broken", save_total_limit=None), display=StopAt(3))
    assert broken.info()["state"] == "stopped"
    assert broken.info()["exit_code"] == 143
    resumed = compose.resume(str(broken.path))
    assert resumed.info()["state"] == "done"
    assert numbers(resumed) == numbers(whole)
    assert any(line.get("eval_loss") for line in numbers(whole))
    for step in (4, 6, 8):
        assert digest(resumed, step) == digest(whole, step)
    final = "adapter_model.safetensors"
    assert (resumed.path / "final" / final).read_bytes() == (
        whole.path / "final" / final
    ).read_bytes()


@FEW
def test_the_same_recipe_twice_gives_the_same_numbers(make_recipe, whole):
    """A run that is stopped and resumed is the same recipe a second time, for every stage."""
    assert numbers(compose.train(make_recipe("second"))) == numbers(whole)


@ONE
def test_a_run_under_nohup_outlives_its_terminal(make_recipe, monkeypatch):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # what nohup does
    monkeypatch.setattr(StopAt, "metrics", lambda self, line: signal.raise_signal(signal.SIGHUP))
    try:
        run = compose.train(make_recipe("nohup"), display=StopAt(1))
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
    assert run.info()["state"] == "done"
