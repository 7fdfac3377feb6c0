"""The reference: the model a run begins with, adapters merged, to the last bit and to the end."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from tunesmith import compose, recipe
from tunesmith.stages import reference_impl

ROWS = [
    {"prompt": f"Say {word}", "chosen": word, "rejected": "never"}
    for word in ("red", "green", "blue", "white", "black", "grey", "pink", "teal")
]


@pytest.fixture
def train(tmp_path, monkeypatch, own_home):
    """`train(name, model, stage, tuner)`: the TrainingRun after its last update."""
    seen = {}
    from tunesmith.training import loop

    fit = loop.fit
    monkeypatch.setattr(loop, "fit", lambda run: (seen.update(run=run), fit(run)))
    pairs, chats = tmp_path / "pairs.jsonl", tmp_path / "chats.jsonl"
    pairs.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    asked = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in ROWS]
    chats.write_text("".join(json.dumps(row) + "\n" for row in asked))

    def train(name: str, model, stage, tuner, rate: float = 1e-2, **reading):
        data = chats if stage == "sft" else pairs
        compose.train(
            recipe.from_dict(
                {
                    "model": {"path": str(model), **reading},
                    "stage": stage,
                    "tuner": tuner,
                    "data": {"train": str(data), "num_proc": 1},
                    "train": {"max_steps": 8, "per_device_train_batch_size": 4,
                              "dtype": "float32", "logging_steps": 1, "save_steps": "no"},
                    "optim": {"learning_rate": rate},
                    "output": {"dir": str(tmp_path / "runs"), "name": name},
                }
            )
        )  # fmt: skip
        return seen["run"]

    return train


def recomputed(run, language_model) -> np.ndarray:
    """Log-probabilities of the run's rows in its own groups, shape (rows, 2)."""
    dataset = run.loader.dataset
    held, run.model = run.model, language_model
    language_model.eval()
    try:
        with torch.no_grad():
            parts = [
                reference_impl._forward(run, [dataset[row] for row in rows], run.loader)
                for rows in reference_impl._groups(dataset.lengths)
            ]
    finally:
        run.model = held
    return np.concatenate(parts)


def plain(model, run) -> np.ndarray:
    """The same by transformers alone: Σ log p of the answer's tokens, a sequence at a time."""
    found = []
    for row in range(len(run.loader.dataset)):
        for example in run.loader.dataset[row]:
            ids = torch.from_numpy(example.ids_T.astype(np.int64))
            with torch.no_grad():
                logits_TV = model(ids[None]).logits[0]
            logps_T = logits_TV[:-1].log_softmax(-1).gather(1, ids[1:, None])[:, 0]
            found.append(float((logps_T * torch.tensor(example.weights_T[1:])).sum()))
    return np.array(found).reshape(-1, 2)


@pytest.mark.parametrize("stage", [{"kind": "dpo", "beta": 0.5}])
def test_training_leaves_an_adapters_reference_as_it_was(stage, tiny_model, train):
    run = train("lora", tiny_model, stage, "lora")
    kept = run.loader.columns["reference"]
    with run.tuner.reference(run.hf):
        assert np.array_equal(recomputed(run, run.model), kept)
    moved = recomputed(run, run.model)
    assert np.abs(moved - kept).max() > 0.1
    assert (moved[:, 0] - moved[:, 1] - kept[:, 0] + kept[:, 1]).mean() > 0


@pytest.mark.parametrize("tuner", ["full", "freeze"])
def test_a_trained_base_is_compared_with_what_it_was(tuner, tiny_model, train):
    from transformers import AutoModelForCausalLM

    run = train(tuner, tiny_model, "dpo", tuner)
    kept = run.loader.columns["reference"]
    fresh = AutoModelForCausalLM.from_pretrained(tiny_model).eval()
    assert np.allclose(plain(fresh, run), kept, atol=1e-4)
    assert np.abs(recomputed(run, run.model) - kept).max() > 0.1


def test_over_a_fine_tuned_adapter_it_is_the_fine_tuned_model(tiny_model, train):
    """Trap of older systems: the adapter switched off is the raw base, not the SFT model."""
    from transformers import AutoModelForCausalLM

    sft = train("sft", tiny_model, "sft", "lora").directory.path
    run = train("dpo", f"run:{sft}", {"kind": "dpo", "beta": 0.5}, "lora")
    kept = run.loader.columns["reference"]
    tuned = compose.load(str(sft), dtype="float32").model
    assert np.allclose(plain(tuned.hf, run), kept, atol=1e-4)
    raw = plain(AutoModelForCausalLM.from_pretrained(tiny_model).eval(), run)
    assert np.abs(raw - kept).min() > 0.3  # far above that tolerance
    with run.tuner.reference(run.hf):  # after training, too
        assert np.array_equal(recomputed(run, run.model), kept)
    first = next(line for line in run.directory.metrics() if "loss" in line)
    assert first["loss"] == pytest.approx(np.log(2), abs=1e-6)


def test_continuing_in_another_run_takes_that_run_as_reference(tiny_model, train):
    """DPO twice: the second is compared with the first's result, not with its reference."""
    one = train("one", tiny_model, "dpo", "lora")
    two = train("two", f"run:{one.directory.path}", "dpo", "lora")
    first = next(line for line in two.directory.metrics() if "loss" in line)
    assert first["rewards/margins"] == pytest.approx(0, abs=1e-5)
    moved = recomputed(one, one.model)
    assert np.allclose(two.loader.columns["reference"], moved, atol=1e-3)


def test_all_tuners_of_a_base_share_one_reference(tiny_model, train):
    """Virtual tokens are drawn, so the model with them is no reference, not even before step 1."""
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    tuners = ["prompt", {"kind": "prefix", "tokens": 5}, "lora", {"kind": "prompt", "tokens": 3}]
    for at, tuner in enumerate(tuners):
        run = train(f"run-{at}", tiny_model, "dpo", tuner)
        assert np.allclose(run.loader.columns["reference"], plain(base, run), atol=1e-3)


def test_a_base_that_is_read_in_another_way_has_another_reference(tiny_model, train):
    scaled = {"rope_type": "linear", "factor": 8.0}
    one = train("one", tiny_model, "dpo", "lora").loader.columns["reference"]
    run = train("two", tiny_model, "dpo", "lora", rope_scaling=scaled)
    two = run.loader.columns["reference"]
    assert np.abs(one - two).max() > 1e-3
    first = next(line for line in run.directory.metrics() if "loss" in line)
    assert first["loss"] == pytest.approx(np.log(2), abs=1e-6)


def test_the_golden_number():
    """−10, −12 beside −11, −11.5 at β 0.1: margin 0.15, loss 0.6209570478."""
    from tunesmith.losses import preference

    margin_P = torch.tensor([(-10.0 + 11.0) - (-12.0 + 11.5)], dtype=torch.float64)
    assert 0.1 * margin_P.item() == pytest.approx(0.15)
    found = preference.dpo(margin_P, 0.1, "sigmoid")
    assert found.item() == pytest.approx(0.6209570478, abs=1e-9)
