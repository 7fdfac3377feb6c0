"""LAW: every stage trains with every tuner, or the pair is refused, with a reason, before any
weight is read."""

from __future__ import annotations

import json

import pytest
import torch

from tunesmith import compose, recipe, registry
from tunesmith.errors import TunesmithError
from tunesmith.training import checkpoint
from tunesmith.types import Conversation, Document, Feedback, Preference

TALKS = [("Hi", "Hello there!"), ("2+2?", "4"), ("A colour?", "Blue"), ("The sea?", "Water.")]
ROWS = {
    Document: [{"text": f"{a} {b} and so on."} for a, b in TALKS],
    Conversation: [{"prompt": a, "completion": b} for a, b in TALKS],
    Preference: [{"prompt": a, "chosen": b, "rejected": "No, no."} for a, b in TALKS],
    Feedback: [
        {"prompt": a, "completion": b, "label": at % 2 == 0} for at, (a, b) in enumerate(TALKS)
    ],
}
# What a stage can't do without, beside its kind.
SAMPLED = {"rewards": [{"path": "regex", "argument": "[a-m]"}], "max_completion_length": 8}
NEEDS: dict[str, dict] = {
    "grpo": {**SAMPLED, "num_generations": 4},
    "rloo": {**SAMPLED, "num_generations": 4},
    "ppo": SAMPLED,
}
# (stage, tuner) -> code: cells that have no meaning, each refused with a reason.
REFUSED: dict[tuple[str, str], str] = {}
CELLS = [(s, t) for s in registry.names("stages") for t in registry.names("tuners")]
# Always: every stage with `full` (with `lora` they are resumed next door), and every tuner with a
# stage of chats, one of pairs and one of sampled answers.
ALWAYS = [cell for cell in CELLS if cell[1] == "full" or cell[0] in ("sft", "dpo", "grpo")]


def settings(stage: str, tuner: str, tiny_model, teacher, folder) -> dict:
    (kind, *_) = registry.load("stages", stage).sample
    data = folder / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in ROWS[kind]))
    needs = NEEDS.get(stage, {})
    if stage == "distill":
        needs = {"teacher": str(teacher)}
    return {
        "model": {"path": str(tiny_model)},
        "stage": {"kind": stage, **needs},
        "tuner": tuner,
        "data": {"train": str(data), "max_length": 128, "num_proc": 1},
        "train": {
            "max_steps": 2,
            "per_device_train_batch_size": 2,
            "dtype": "float32",
            "logging_steps": 1,
            "save_steps": 1,
        },
        "optim": {"learning_rate": 1e-3, "lr_scheduler_type": "constant", "warmup_steps": 0},
        "output": {"dir": str(folder / "runs"), "name": "cell"},
    }


@pytest.mark.parametrize(
    ("stage", "tuner"),
    [pytest.param(*cell, marks=() if cell in ALWAYS else pytest.mark.slow) for cell in CELLS],
    ids=lambda name: name,
)
def test_a_cell_trains_or_is_refused(
    stage, tuner, tiny_model, written_teacher, tmp_path, monkeypatch
):
    wanted = recipe.from_dict(settings(stage, tuner, tiny_model, written_teacher, tmp_path))
    if (stage, tuner) in REFUSED:
        from tunesmith.models import load

        monkeypatch.setattr(load, "load", lambda *_, **__: pytest.fail("weights were read"))
        with pytest.raises(TunesmithError) as caught:
            compose.train(wanted)
        assert caught.value.code == REFUSED[stage, tuner]
        assert caught.value.why or caught.value.fix
        assert not (tmp_path / "runs").exists()
        return
    run = compose.train(wanted)
    losses = [line["loss"] for line in run.metrics() if "loss" in line]
    assert len(losses) == 2
    assert torch.tensor(losses).isfinite().all()
    before, after = (checkpoint.open_step(run.path, step).weights() for step in (1, 2))
    assert set(before) == set(after)
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert any(run.model_path().glob("*.safetensors"))


def test_refused_cells_are_cells():
    assert set(REFUSED) - set(CELLS) == set()
    assert set(NEEDS) - set(registry.names("stages")) == set()
