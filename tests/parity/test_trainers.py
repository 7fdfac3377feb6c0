"""The same batches give the same losses as transformers.Trainer and TRL's SFTTrainer.

One row of chats, one random model, the same hyper-parameters; ours runs through `compose.train`,
the others pad. In float32 the sequences of losses must agree: the first to 1e-6, later ones to the
rounding that eight updates gather.
"""

from __future__ import annotations

import json

import numpy as np
import pytest

from tunesmith import compose, recipe
from tunesmith.stages.base import build
from tunesmith.types import Conversation, Message, Parts

pytestmark = pytest.mark.slow

STEPS = 8
BATCH = 3
MAX_LENGTH = 512
WORDS = ["river", "lamp", "seven", "a quiet hill", "glass", "north wind", "paper boat", "salt"]
QUIET = {"report_to": "none", "disable_tqdm": True, "use_cpu": True, "save_strategy": "no"}


def chats() -> list[list[dict[str, str]]]:
    """Enough rows for all steps, of very different lengths, one and two turns."""
    rng = np.random.default_rng(7)
    say = lambda: " ".join(rng.choice(WORDS, size=rng.integers(1, 7)))
    rows = []
    for index in range(STEPS * BATCH):
        turns = ["user", "assistant"] * (1 + index % 2)
        rows.append([{"role": role, "content": say()} for role in turns])
    return rows


@pytest.fixture(scope="module")
def chat_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("chats") / "chats.jsonl"
    path.write_text("".join(json.dumps({"messages": row}) + "\n" for row in chats()))
    return path


@pytest.fixture(scope="module")
def encoded(tiny_model):
    """Ids and labels of each row as our SFT stage makes them; label -100 where the weight is 0."""
    from tunesmith import registry
    from tunesmith.templates.base import load

    parts = Parts(load("auto", tiny_model), max_length=MAX_LENGTH, on_overlength="error")
    stage = build(registry.load("stages", "sft").Config(), parts)
    talks = [
        Conversation(tuple(Message.of(m["role"], m["content"]) for m in row)) for row in chats()
    ]
    examples = [example for each in stage.encode(talks) for example in each.examples]
    assert len(examples) == STEPS * BATCH
    return [
        {
            "input_ids": example.ids_T.tolist(),
            "labels": np.where(example.weights_T > 0, example.ids_T, -100).tolist(),
        }
        for example in examples
    ]


def ours(tiny_model, chat_file, folder, *, tuner, rate=1e-3, steps=STEPS):
    """Losses, gradient norms and run of a `compose.train`."""
    run = compose.train(
        recipe.from_dict(
            {
                "model": {"path": str(tiny_model)},
                "stage": "sft",
                "tuner": tuner,
                "data": {
                    "train": str(chat_file),
                    "max_length": MAX_LENGTH,
                    "shuffle": False,
                    "num_proc": 1,
                },
                "train": {
                    "max_steps": steps,
                    "per_device_train_batch_size": BATCH,
                    "dtype": "float32",
                    "logging_steps": 1,
                    "save_steps": "no",
                },
                "optim": {
                    "learning_rate": rate,
                    "lr_scheduler_type": "cosine",
                    "warmup_steps": 2,
                    "max_grad_norm": 0.5,
                    "weight_decay": 0.1,
                },
                "output": {"dir": str(folder), "name": "ours"},
            }
        )
    )
    lines = [line for line in run.metrics() if "loss" in line]
    return [line["loss"] for line in lines], [line["grad_norm"] for line in lines], run


def arguments(folder, **more):
    return dict(
        output_dir=str(folder),
        max_steps=STEPS,
        per_device_train_batch_size=BATCH,
        learning_rate=1e-3,
        lr_scheduler_type="cosine",
        warmup_steps=2,
        max_grad_norm=0.5,
        weight_decay=0.1,
        train_sampling_strategy="sequential",
        logging_steps=1,
        gradient_checkpointing=False,
        bf16=False,
        **QUIET,
        **more,
    )


def losses_of(trainer_class, **settings) -> tuple[list[float], list[float]]:
    """Unrounded losses (its log rounds them) and gradient norms of a peer."""

    class Recording(trainer_class):
        def compute_loss(self, *args, **kwargs):
            result = super().compute_loss(*args, **kwargs)
            seen.append(float(result[0] if isinstance(result, tuple) else result))
            return result

    seen: list[float] = []
    trainer = Recording(**settings)
    trainer.train()
    norms = [float(line["grad_norm"]) for line in trainer.state.log_history if "grad_norm" in line]
    return seen, norms


def by_transformers(tiny_model, encoded, folder, model):
    pytest.importorskip("accelerate", reason="transformers.Trainer needs accelerate")
    from transformers import AutoTokenizer, DataCollatorForSeq2Seq, Trainer, TrainingArguments

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    return losses_of(
        Trainer,
        model=model,
        args=TrainingArguments(**arguments(folder)),
        train_dataset=encoded,
        data_collator=DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=-100),
    )


def by_trl(tiny_model, encoded, folder, model):
    pytest.importorskip("trl", reason="needs the extra `parity`: pip install 'tunesmith[parity]'")
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    return losses_of(
        SFTTrainer,
        model=model,
        args=SFTConfig(**arguments(folder), max_length=MAX_LENGTH),
        train_dataset=Dataset.from_list(encoded),
        processing_class=AutoTokenizer.from_pretrained(tiny_model),
    )


PEERS = {"transformers": by_transformers, "trl": by_trl}


def assert_same(ours, theirs):
    assert len(ours) == len(theirs) == STEPS
    assert ours[0] == pytest.approx(theirs[0], rel=1e-6)
    assert ours == pytest.approx(theirs, rel=2e-5)


@pytest.mark.parametrize("peer", PEERS)
def test_full_fine_tuning(peer, tiny_model, chat_file, encoded, tmp_path):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    theirs, their_norms = PEERS[peer](tiny_model, encoded, tmp_path / "peer", model)
    losses, norms, run = ours(tiny_model, chat_file, tmp_path, tuner="full")
    assert theirs[-1] < theirs[0]
    assert_same(losses, theirs)
    assert norms == pytest.approx(their_norms, rel=1e-3)
    trained = AutoModelForCausalLM.from_pretrained(run.model_path()).state_dict()
    for name, weight in model.state_dict().items():
        assert (trained[name] - weight).abs().max() < 2e-4, name


@pytest.mark.parametrize("peer", PEERS)
def test_lora(peer, tiny_model, chat_file, encoded, tmp_path):
    """PEFT starts from the adapter our seed draws: a run with rate 0 writes it down."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    tuner = {"kind": "lora", "r": 4, "lora_alpha": 8, "lora_dropout": 0.0}
    _, _, start = ours(tiny_model, chat_file, tmp_path / "start", tuner=tuner, rate=0.0, steps=1)
    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    model = PeftModel.from_pretrained(base, start.model_path(), is_trainable=True)
    theirs, their_norms = PEERS[peer](tiny_model, encoded, tmp_path / "peer", model)
    losses, norms, _ = ours(tiny_model, chat_file, tmp_path, tuner=tuner)
    assert_same(losses, theirs)
    assert norms == pytest.approx(their_norms, rel=1e-3)
