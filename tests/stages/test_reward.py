"""Reward models: they learn to rank, resume with their head, and transformers loads them."""

from __future__ import annotations

import json

import pytest
import torch

from tunesmith import compose, recipe
from tunesmith.errors import EnvironmentFault
from tunesmith.training import checkpoint


@pytest.fixture
def train(tiny_model, tmp_path):
    """`train(name, tuner, **stage)`: a run on pairs that one word tells apart."""
    data = tmp_path / "pairs.jsonl"
    words = ["hill", "lamp", "coin", "fern", "tide", "wolf", "kite", "mill"]
    rows = [
        {"prompt": f"{a}?", "chosen": f"{b} yes", "rejected": f"{b} no"}
        for a in words
        for b in words
    ]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def train(name: str, tuner="full", steps: int = 60, **stage):
        return compose.train(
            recipe.from_dict(
                {
                    "model": {"path": str(tiny_model)},
                    "stage": {"kind": "reward", **stage},
                    "tuner": tuner,
                    "data": {"train": str(data), "eval": {"count": 16}, "num_proc": 1},
                    "train": {
                        "max_steps": steps,
                        "per_device_train_batch_size": 8,
                        "dtype": "float32",
                        "logging_steps": 10,
                        "save_steps": steps,
                    },
                    "optim": {"learning_rate": 1e-2},
                    "output": {"dir": str(tmp_path / "runs"), "name": name},
                }
            )
        )

    return train


def last_eval(run) -> dict:
    return [line for line in run.metrics() if "eval_loss" in line][-1]


@pytest.mark.parametrize("tuner", ["full", {"kind": "lora", "r": 8}, "freeze"])
def test_a_separable_set_is_ranked_perfectly(tuner, train):
    run = train(tuner if isinstance(tuner, str) else "lora", tuner)
    assert last_eval(run)["eval_rewards/accuracies"] == 1.0
    saved = checkpoint.open_step(run.path, run.steps()[-1]).weights()
    assert saved["score.weight"].shape == (1, 32)


def test_centring_keeps_scores_around_zero(train):
    sums = []
    for name, coefficient in (("free", 0.0), ("centred", 1.0)):
        line = last_eval(train(name, steps=30, center_rewards_coefficient=coefficient))
        sums.append(abs(line["eval_rewards/chosen"] + line["eval_rewards/rejected"]))
    assert sums[1] < min(0.5, sums[0])


def test_transformers_loads_it_as_a_classifier_that_scores_the_same(train, tiny_model):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    run = train("whole", steps=4)
    final = run.model_path()
    assert json.loads((final / "config.json").read_text())["architectures"] == [
        "LlamaForSequenceClassification"
    ]
    model, info = AutoModelForSequenceClassification.from_pretrained(
        final, output_loading_info=True
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    tokenizer = AutoTokenizer.from_pretrained(final)
    scores = []
    for answer in ("hill yes", "hill no"):
        talk = [{"role": "user", "content": "lamp?"}, {"role": "assistant", "content": answer}]
        text = tokenizer.apply_chat_template(talk, tokenize=False).rstrip()
        ids = tokenizer(text, return_tensors="pt", add_special_tokens=False).input_ids
        with torch.no_grad():
            scores.append(float(model(ids).logits))
            hidden = model.model(ids).last_hidden_state[0, -1]
        saved = checkpoint.open_step(run.path, run.steps()[-1]).weights()["score.weight"]
        assert scores[-1] == pytest.approx(float(saved @ hidden), rel=1e-5)


def test_an_adapter_keeps_its_head_beside_it(train):
    from safetensors.torch import load_file

    final = train("adapter", "lora", steps=2).model_path()
    assert (final / "adapter_config.json").is_file()
    assert load_file(final / "score.safetensors")["score.weight"].shape == (1, 32)


def test_peft_lays_the_adapter_over_a_classifier_with_our_head(train, tiny_model):
    """As docs/alignment.md shows it; the scores are those of `tunesmith score`."""
    from peft import PeftModel
    from safetensors.torch import load_file
    from transformers import AutoModelForSequenceClassification

    from tunesmith.compose import scoring
    from tunesmith.types import Conversation, Message

    run = train("adapter", {"kind": "lora", "r": 4}, steps=6)
    final = run.model_path()
    base = AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=1)
    base.score.weight.data = load_file(final / "score.safetensors")["score.weight"]
    peer = PeftModel.from_pretrained(base, str(final)).eval()
    scorer = scoring.load(str(run.path), dtype="float32")
    said = Message.of("user", "lamp?"), Message.of("assistant", "hill yes")
    encoded = scorer.encode(Conversation(said)).examples
    with torch.no_grad():
        wanted = float(peer(torch.from_numpy(encoded[0].ids_T).long()[None]).logits)
    assert scorer.scores(encoded) == pytest.approx([wanted], abs=1e-5)


@pytest.mark.parametrize("tuner", ["full", "lora"])
@pytest.mark.parametrize("selector", ["", "@step-2"])
def test_it_can_not_be_taken_for_a_language_model(tuner, selector, train):
    run = train("scores", tuner, steps=2)
    with pytest.raises(EnvironmentFault) as caught:
        compose.load(f"{run.path}{selector}")
    assert caught.value.code == "E212"
