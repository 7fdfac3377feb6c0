"""Preference stages: what a pair becomes, what is refused, where the reference comes from."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tunesmith import compose, recipe, registry
from tunesmith.data.collate import collate
from tunesmith.errors import ConfigError, DataError
from tunesmith.stages.base import build
from tunesmith.stages.pairs_impl import summed
from tunesmith.templates.base import load
from tunesmith.types import (
    Conversation,
    Example,
    Feedback,
    Message,
    Parts,
    Preference,
    TokenLogprobs,
)

PAIRS = ("dpo", "orpo", "simpo", "cpo")


def stage_of(kind: str, model, max_length: int = 256, on_overlength: str = "truncate", **config):
    parts = Parts(load("auto", model), max_length, on_overlength)
    return build(registry.load("stages", kind).Config(**config), parts)


def pair(question: str, chosen: str, rejected: str) -> Preference:
    said = (Message.of("user", question), *(Message.of("assistant", t) for t in (chosen, rejected)))
    return Preference(Conversation(said[:1]), said[1:2], said[2:])


@pytest.mark.parametrize("kind", PAIRS)
def test_a_pair_becomes_two_examples_of_one_prompt(kind, tiny_model):
    stage = stage_of(kind, tiny_model)
    [encoded] = stage.encode([pair("Name a colour", "Blue", "Seven")])
    decode = stage.template.tokenizer.decode
    trained = [decode(e.ids_T[e.weights_T > 0].tolist()) for e in encoded.examples]
    assert trained == ["Blue<|im_end|>", "Seven<|im_end|>"]
    prompts = [e.ids_T[: int(np.argmax(e.weights_T > 0))].tolist() for e in encoded.examples]
    assert prompts[0] == prompts[1]
    assert "Name a colour" in decode(prompts[0])


def test_what_can_not_be_compared_is_told(tiny_model):
    stage = stage_of("dpo", tiny_model)
    same, empty = stage.encode([pair("Q", "A", "A"), pair("Q", "", "B")])
    assert same.problem == "chosen and rejected are the same"
    assert "empty" in empty.problem


def test_earlier_answers_of_the_prompt_are_not_trained(tiny_model):
    stage = stage_of("dpo", tiny_model)
    talk = [("user", "One?"), ("assistant", "Uno"), ("user", "Two?")]
    prompt = Conversation(tuple(Message.of(r, t) for r, t in talk))
    answers = ((Message.of("assistant", text),) for text in ("Due", "Nein"))
    [encoded] = stage.encode([Preference(prompt, *answers)])
    chosen = encoded.examples[0]
    text = stage.template.tokenizer.decode(chosen.ids_T[chosen.weights_T > 0].tolist())
    assert text == "Due<|im_end|>"


def test_truncation_keeps_one_prompt_and_both_ends(tiny_model):
    stage = stage_of("dpo", tiny_model, max_length=64)
    [encoded] = stage.encode([pair("Why?", "a" * 80, "b" * 90)])
    assert encoded.truncated > 0
    assert encoded.cut_answer
    [question] = stage.encode([pair("why " * 40, "a", "b")])  # the answers stay whole
    assert question.truncated > 0
    assert not question.cut_answer
    end = stage.template.stop_ids[0]
    for example in encoded.examples:
        assert len(example.ids_T) <= 64
        assert end in example.ids_T[-2:].tolist()
    [skipped] = stage_of("dpo", tiny_model, 64, "skip").encode([pair("Why?", "a" * 80, "b")])
    assert skipped.policy == "skip"


def test_an_undesirable_answer_has_weight_minus_one_and_both_have_a_mismatch(tiny_model):
    stage = stage_of("kto", tiny_model)
    talks = [pair("A?", "yes", "-"), pair("B?", "no", "-"), pair("C?", "", "-")]
    rows = [
        Feedback(Conversation((*p.prompt.messages, *p.chosen)), at == 0)
        for at, p in enumerate(talks)
    ]
    good, bad, empty = stage.encode(rows)
    decode = stage.template.tokenizer.decode
    assert set(good.examples[0].weights_T.tolist()) == {0.0, 1.0}
    assert set(bad.examples[0].weights_T.tolist()) == {0.0, -1.0}
    assert "empty" in empty.problem
    mismatched = decode(good.examples[1].ids_T.tolist())
    assert "A?" in mismatched
    assert mismatched.rstrip().endswith("no<|im_end|>")
    [alone] = stage.encode(rows[:1])
    assert "no other" in alone.problem


@pytest.mark.parametrize(
    ("config", "code"),
    [
        ({"kind": "dpo", "beta": 0.0}, "C186"),
        ({"kind": "dpo", "label_smoothing": 0.5}, "C185"),
        ({"kind": "dpo", "label_smoothing": 0.1, "loss_type": "hinge"}, "C185"),
        ({"kind": "kto", "desirable_weight": -1.0}, "C186"),
    ],
)
def test_senseless_numbers_are_refused(config, code, tiny_model):
    stage = stage_of(**{**config, "model": tiny_model})
    plain = recipe.from_dict({"model": {"path": str(tiny_model)}, "data": {"train": "a.jsonl"}})
    with pytest.raises(ConfigError) as caught:
        stage.check(plain)
    assert caught.value.code == code


@pytest.mark.parametrize("kind", ["dpo", "orpo", "simpo", "cpo", "kto"])
def test_weights_of_sources_are_refused(kind, tiny_model):
    wanted = recipe.from_dict(
        {
            "model": {"path": str(tiny_model)},
            "stage": kind,
            "data": {"train": [{"path": "a.jsonl"}, {"path": "b.jsonl", "weight": 0.5}]},
        }
    )
    with pytest.raises(ConfigError) as caught:
        stage_of(kind=kind, model=tiny_model).check(wanted)
    assert caught.value.code == "C198"
    assert caught.value.where == "data.train[1].weight"


COLOURS = ["red", "green", "blue", "white", "black"]
PREFERRED = [
    {"prompt": f"Say {COLOURS[i % 5]} {i}", "chosen": COLOURS[i % 5], "rejected": "never"}
    for i in range(20)
]
JUDGED = [
    {"prompt": f"Say {COLOURS[i % 5]} {i}", "completion": COLOURS[i % 5], "label": i % 3 > 0}
    for i in range(20)
]


@pytest.fixture
def train(tiny_model, tmp_path):
    """`train(name, stage, **changes)`: a run on twenty rows."""

    def train(name: str, stage, tuner="full", rows=PREFERRED, **changes):
        data = tmp_path / "rows.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return compose.train(
            recipe.from_dict(
                {
                    "model": {"path": str(tiny_model)},
                    "stage": stage,
                    "tuner": tuner,
                    "data": {"train": str(data), "eval": {"count": 4}, "num_proc": 1},
                    "train": {
                        "max_steps": 12,
                        "per_device_train_batch_size": 4,
                        "dtype": "float32",
                        "logging_steps": 1,
                        **changes,
                    },
                    "optim": {"learning_rate": 3e-3},
                    "output": {"dir": str(tmp_path / "runs"), "name": name},
                }
            )
        )

    return train


@pytest.mark.parametrize("kind", PAIRS)
@pytest.mark.parametrize("tuner", ["full", "lora"])
def test_margins_grow_and_losses_fall(kind, tuner, train):
    run = train(f"{kind}-{tuner}", kind, tuner)
    evals = [line for line in run.metrics() if "eval_loss" in line]
    lines = [line for line in run.metrics() if "loss" in line]
    assert lines[-1]["loss"] < lines[0]["loss"]
    if kind != "orpo":  # led by its token loss at first
        assert max(m["rewards/margins"] for m in lines[6:]) > lines[0]["rewards/margins"]
    assert "eval_perplexity" not in evals[-1]


def test_sums_of_long_answers_keep_their_digits():
    """In float32, −10 added up three thousand times is off by 1e-3 or more."""
    import torch

    rng = np.random.default_rng(0)
    each = rng.uniform(-10.5, -10.2, 3000).astype(np.float32)
    ids = np.arange(3001, dtype=np.int32)
    batch = collate([Example(ids, np.r_[0, np.ones(3000)].astype(np.float32))])
    where = torch.zeros(3000, dtype=torch.long)
    tokens = TokenLogprobs(torch.from_numpy(each), torch.ones(3000), where, where > 0)
    [found] = summed(tokens, batch).tolist()
    assert found == pytest.approx(float(each.astype(np.float64).sum()), abs=1e-9)
    assert abs(float(np.add.accumulate(each)[-1]) - found) > 1e-3


@pytest.mark.parametrize("loss_type", ["sigmoid", "ipo"])
def test_the_kl_is_what_the_answers_gained_since_the_reference(loss_type, train):
    """k1 of each side: log π − log ref, zero at first, in nats whatever the loss and its beta."""
    stage = {"kind": "dpo", "beta": 0.25, "loss_type": loss_type}
    lines = train(f"kl-{loss_type}", stage, "lora").metrics()
    steps = [line for line in lines if "loss" in line]
    ends = [line for line in lines if "eval_loss" in line]
    assert steps[0]["kl/chosen"] == pytest.approx(0, abs=1e-4)
    assert steps[-1]["kl/rejected"] < -0.1
    for side in ("chosen", "rejected"):
        for line in steps:
            assert line[f"kl/{side}"] == pytest.approx(line[f"rewards/{side}"] / 0.25, abs=1e-6)
        gained = ends[-1][f"eval_logps/{side}"] - ends[0][f"eval_logps/{side}"]
        assert ends[-1][f"eval_kl/{side}"] == pytest.approx(gained, abs=1e-3)


@pytest.mark.parametrize("kind", ["orpo", "simpo", "cpo"])
def test_without_a_reference_there_is_no_kl_and_that_is_said(kind, train, monkeypatch):
    from tunesmith.compose.display import Display

    said = []
    monkeypatch.setattr(Display, "line", lambda self, topic, text: said.append(text))
    lines = train(kind, kind, "lora", max_steps=1).metrics()
    assert not [name for line in lines for name in line if "kl" in name]
    assert "no reference, so no KL is measured" in said


@pytest.mark.parametrize("tuner", ["full", {"kind": "lora", "use_dora": True}, "freeze"])
def test_policy_begins_as_the_reference(tuner, train):
    first = train("begin", "dpo", tuner, max_steps=1).metrics()
    step = next(line for line in first if "loss" in line)
    assert step["loss"] == pytest.approx(np.log(2), abs=1e-6)
    assert step["rewards/margins"] == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("tuner", ["full", "lora"])
def test_kto_begins_at_one_half_and_learns_both_verdicts(tuner, train):
    run = train("kto", {"kind": "kto", "beta": 0.5}, tuner, JUDGED)
    lines = [line for line in run.metrics() if "loss" in line]
    assert lines[0]["loss"] == pytest.approx(0.5, abs=1e-5)
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert lines[-1]["rewards/undesirable_sum"] < lines[-1]["rewards/desirable_sum"]


def test_a_second_run_finds_the_reference_made(train, monkeypatch):
    from tunesmith.stages import reference_impl

    first = train("one", {"kind": "dpo", "beta": 0.2})

    def never(*_):
        raise AssertionError("computed again")

    monkeypatch.setattr(reference_impl, "_forward", never)
    second = train("two", {"kind": "dpo", "beta": 0.2})
    losses = [[m["loss"] for m in run.metrics() if "loss" in m] for run in (first, second)]
    assert losses[0] == losses[1]


def test_pairs_are_refused_by_stages_of_conversations(train):
    with pytest.raises(DataError) as caught:
        train("wrong", "sft")
    assert caught.value.code == "D205"
