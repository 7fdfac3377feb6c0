"""The same pairs give the same losses as TRL's trainers of preference stages."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tunesmith import compose, recipe, registry
from tunesmith.stages.base import build
from tunesmith.templates.base import load
from tunesmith.types import Conversation, Message, Parts, Preference

pytestmark = pytest.mark.slow

STEPS, BATCH = 6, 4
EPSILON = 1e-4
"""Far above rounding: gradients of a pair may cancel, and Adam divides what is left by its size."""
WORDS = ["river", "lamp", "seven", "a quiet hill", "glass", "north wind", "paper boat", "salt"]


def pairs() -> list[dict]:
    rng = np.random.default_rng(11)
    say = lambda role: [{"role": role, "content": " ".join(rng.choice(WORDS, rng.integers(1, 7)))}]
    names = (("prompt", "user"), ("chosen", "assistant"), ("rejected", "assistant"))
    return [{name: say(role) for name, role in names} for _ in range(STEPS * BATCH)]


@pytest.fixture(scope="module")
def pair_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in pairs()))
    return path


def ours(tiny_model, pair_file, folder, stage, **changes) -> list[dict]:
    return [line for line in run_of(tiny_model, pair_file, folder, stage, **changes).metrics()
            if "loss" in line]  # fmt: skip


def run_of(tiny_model, pair_file, folder, stage, rate=1e-3, steps=STEPS):
    return compose.train(
        recipe.from_dict(
            {
                "model": {"path": str(tiny_model)},
                "stage": stage,
                "tuner": "full",
                "data": {"train": str(pair_file), "shuffle": False, "num_proc": 1},
                "train": {
                    "max_steps": steps,
                    "per_device_train_batch_size": BATCH,
                    "dtype": "float32",
                    "logging_steps": 1,
                    "save_steps": "no",
                },
                "optim": {
                    "learning_rate": rate,
                    "lr_scheduler_type": "constant",
                    "warmup_steps": 0,
                    "max_grad_norm": 1.0,
                    "weight_decay": 0.0,
                    "adam_epsilon": EPSILON,
                },
                "output": {"dir": str(folder), "name": "ours"},
            }
        )
    )


def arguments(folder) -> dict:
    return dict(
        output_dir=str(folder),
        max_steps=STEPS,
        per_device_train_batch_size=BATCH,
        learning_rate=1e-3,
        lr_scheduler_type="constant",
        warmup_steps=0,
        max_grad_norm=1.0,
        weight_decay=0.0,
        adam_epsilon=EPSILON,
        train_sampling_strategy="sequential",
        logging_steps=1,
        gradient_checkpointing=False,
        bf16=False,
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        save_strategy="no",
    )


def encoded(tiny_model) -> list[dict[str, list[int]]]:
    """The pairs as our stage tokenises them: TRL would train what the template puts after the end
    marker, too."""
    parts = Parts(load("auto", tiny_model), max_length=2048, on_overlength="error")
    stage = build(registry.load("stages", "dpo").Config(), parts)
    say = lambda row, name: tuple(Message.of(m["role"], m["content"]) for m in row[name])
    samples = [
        Preference(Conversation(say(row, "prompt")), say(row, "chosen"), say(row, "rejected"))
        for row in pairs()
    ]
    rows = []
    for each in stage.encode(samples):
        cut = int(np.argmax(each.examples[0].weights_T > 0))
        chosen, rejected = (example.ids_T.tolist() for example in each.examples)
        rows.append(
            {"prompt_ids": chosen[:cut], "chosen_ids": chosen[cut:], "rejected_ids": rejected[cut:]}
        )
    return rows


def theirs(trainer_class, tiny_model, rows, model=None, **settings) -> list[dict]:
    """TRL's log, with losses unrounded."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer

    seen: list[float] = []

    class Recording(trainer_class):
        def _prepare_dataset(self, dataset, *_, **__):
            return dataset  # it is tokenised already, by us

        def compute_loss(self, *args, **kwargs):
            result = super().compute_loss(*args, **kwargs)
            seen.append(float(result[0] if isinstance(result, tuple) else result))
            return result

    trainer = Recording(
        model=model or AutoModelForCausalLM.from_pretrained(tiny_model),
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(tiny_model),
        **settings,
    )
    trainer.train()
    logs = [line for line in trainer.state.log_history if "loss" in line]
    return [{**line, "loss": loss} for line, loss in zip(logs, seen, strict=True)]


@pytest.mark.parametrize(
    "config",
    [
        {"loss_type": "sigmoid", "beta": 0.1},
        {"loss_type": "sigmoid", "beta": 0.5},  # TRL knows no label smoothing here
        {"loss_type": "hinge", "beta": 0.2},
        {"loss_type": "ipo", "beta": 0.1},
        {"loss_type": "robust", "beta": 0.1, "label_smoothing": 0.2},
    ],
    ids=lambda c: f"{c['loss_type']}-{c['beta']}",
)
def test_dpo(config, tiny_model, pair_file, tmp_path):
    pytest.importorskip("trl", reason="needs the extra `parity`: pip install 'tunesmith[parity]'")
    from trl import DPOConfig, DPOTrainer

    peer = {**config, "loss_type": [config["loss_type"]]}
    settings = DPOConfig(**arguments(tmp_path / "peer"), max_length=None, **peer)
    found = ours(tiny_model, pair_file, tmp_path, {"kind": "dpo", **config})
    wanted = theirs(DPOTrainer, tiny_model, encoded(tiny_model), args=settings)
    assert [m["loss"] for m in found] == pytest.approx([m["loss"] for m in wanted], rel=1e-5)
    for name in ("rewards/chosen", "rewards/rejected", "rewards/margins"):
        pairs_of = zip(found, wanted, strict=True)
        assert all(a[name] == pytest.approx(b[name], abs=2e-3) for a, b in pairs_of), name


@pytest.mark.parametrize("centring", [0.0, 0.1])
def test_reward(centring, tiny_model, pair_file, tmp_path):
    """TRL starts from the head our seed draws: a run with rate 0 writes it down."""
    pytest.importorskip("trl", reason="needs the extra `parity`: pip install 'tunesmith[parity]'")
    from transformers import AutoModelForSequenceClassification
    from trl import RewardConfig, RewardTrainer

    stage = {"kind": "reward", "center_rewards_coefficient": centring}
    start = run_of(tiny_model, pair_file, tmp_path / "start", stage, rate=0.0, steps=1)
    model = AutoModelForSequenceClassification.from_pretrained(start.model_path())
    rows = [
        {
            "chosen_ids": row["prompt_ids"] + row["chosen_ids"],
            "rejected_ids": row["prompt_ids"] + row["rejected_ids"],
        }
        for row in encoded(tiny_model)
    ]
    settings = RewardConfig(
        **arguments(tmp_path / "peer"), max_length=None, center_rewards_coefficient=centring
    )
    found = ours(tiny_model, pair_file, tmp_path, stage)
    wanted = theirs(RewardTrainer, tiny_model, rows, model, args=settings)
    assert [m["loss"] for m in found] == pytest.approx([m["loss"] for m in wanted], rel=1e-5)
