"""The stages by themselves: blocks, masks, length policies, noise."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tunesmith.data.collate import collate
from tunesmith.errors import DataError
from tunesmith.stages.base import build, neftune
from tunesmith.stages.pretrain import PretrainConfig
from tunesmith.stages.sft import SftConfig
from tunesmith.templates.base import load
from tunesmith.types import Conversation, Document, Example, Message, Parts


def talk(*turns: tuple[str, str]) -> Conversation:
    return Conversation(tuple(Message.of(role, text) for role, text in turns))


@pytest.fixture(scope="module")
def template(tiny_model):
    return load("auto", tiny_model)


def sft(template, max_length=256, on_overlength="truncate", **config):
    return build(SftConfig(**config), Parts(template, max_length, on_overlength))


def trained_text(template, example) -> str:
    return template.tokenizer.decode(example.ids_T[example.weights_T > 0].tolist())


def test_every_token_of_a_document_is_predicted_once(template):
    stage = build(PretrainConfig(), Parts(template, 16, "truncate"))
    [encoded] = stage.encode([Document("a sentence that is longer than one block of sixteen")])
    ids = template.tokenizer.encode_documents(
        ["a sentence that is longer than one block of sixteen"]
    )[0]
    ids = [*ids, template.tokenizer.eos_id]
    targets = [i for e in encoded.examples for i in e.ids_T[e.weights_T > 0].tolist()]
    assert targets == ids[1:]
    assert max(len(e.ids_T) for e in encoded.examples) <= 16


def test_an_empty_document_is_a_problem(template):
    stage = build(PretrainConfig(), Parts(template, 16, "truncate"))
    assert stage.encode([Document("")])[0].problem


TALK = talk(("user", "a"), ("assistant", "first"), ("user", "b"), ("assistant", "second"))


@pytest.mark.parametrize(
    ("train_on", "text"),
    [
        ("all_turns", "first<|im_end|>second<|im_end|>"),
        ("last_turn", "second<|im_end|>"),
    ],
)
def test_what_is_trained(template, train_on, text):
    [encoded] = sft(template, train_on=train_on).encode([TALK])
    assert trained_text(template, encoded.examples[0]) == text


def test_with_prompt_trains_all_but_the_first_token(template):
    [encoded] = sft(template, train_on="with_prompt").encode([TALK])
    assert encoded.examples[0].weights_T.tolist()[0] == 0
    assert set(encoded.examples[0].weights_T.tolist()[1:]) == {1.0}


def test_an_answer_that_is_only_an_end_marker_is_a_problem(template):
    [encoded] = sft(template).encode([talk(("user", "a"), ("assistant", " "))])
    assert "empty" in encoded.problem
    assert encoded.policy == "row"


def test_truncation_drops_the_oldest_rounds_and_keeps_the_end(template):
    long = talk(
        ("system", "S"),
        ("user", "old " * 30),
        ("assistant", "old answer"),
        ("user", "new"),
        ("assistant", "new answer"),
    )
    [encoded] = sft(template, max_length=90).encode([long])
    [example] = encoded.examples
    text = template.tokenizer.decode(example.ids_T.tolist())
    assert len(example.ids_T) <= 90
    assert "S" in text
    assert "old answer" not in text
    assert trained_text(template, example) == "new answer<|im_end|>"
    assert encoded.truncated > 0
    assert encoded.cut_answer  # the old answer would have been trained


def test_truncation_of_one_round_keeps_markup_question_ends_and_the_end_marker(template):
    question = "begin " + "x" * 200 + " finish"
    [encoded] = sft(template, max_length=120).encode(
        [talk(("user", question), ("assistant", "y" * 200))]
    )
    [example] = encoded.examples
    text = template.tokenizer.decode(example.ids_T.tolist())
    assert len(example.ids_T) <= 120
    assert text.startswith("<|im_start|>user\nbegin")
    assert "finish<|im_end|>\n<|im_start|>assistant\n" in text
    assert text.endswith("y<|im_end|>")
    assert example.weights_T.sum() >= 120 // 4


@pytest.mark.parametrize("policy", ["skip", "error"])
def test_other_length_policies_say_so(template, policy):
    [encoded] = sft(template, max_length=32, on_overlength=policy).encode(
        [talk(("user", "x" * 99), ("assistant", "y"))]
    )
    assert encoded.policy == policy
    assert "data.max_length is 32" in encoded.problem


def test_a_prompt_that_can_not_fit_is_listed(template):
    [encoded] = sft(template, max_length=24).encode(
        [talk(("system", "s" * 99), ("user", "x"), ("assistant", "y"))]
    )
    assert encoded.policy == "skip"
    assert "does not fit" in encoded.problem


def test_neftune_noise_has_the_bound_of_its_own_segment():
    lengths = (8, 512)
    batch = collate([Example(np.zeros(n, np.int32), np.zeros(n, np.float32)) for n in lengths])
    torch.manual_seed(0)
    width = 4096
    noise = neftune(torch.zeros(1, sum(lengths), width), batch, alpha=5.0)[0]
    assert noise[8:].abs().max() <= 0.00345267  # α=5, L=512, D=4096
    assert noise[8:].abs().max() > 0.0034
    assert noise[:8].abs().max() == pytest.approx(5 / (8 * width) ** 0.5, rel=1e-2)
    assert noise.mean().abs() < 1e-4


def test_a_row_that_can_not_be_encoded_leaves_its_neighbours_alone(template, monkeypatch):
    stage = sft(template)
    whole = template.encode_batch

    def refuse(sequences):
        if any("bad" in piece.text for turns in sequences for t in turns for piece in t.prompt):
            raise DataError("D302", "a control token")
        return whole(sequences)

    monkeypatch.setattr(template, "encode_batch", refuse)
    good, bad = stage.encode(
        [talk(("user", "a"), ("assistant", "b")), talk(("user", "bad"), ("assistant", "c"))]
    )
    assert trained_text(template, good.examples[0]) == "b<|im_end|>"
    assert bad.problem == "a control token"
