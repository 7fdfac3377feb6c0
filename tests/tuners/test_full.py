"""Full fine-tuning: everything trained, whole models written and read."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.models.families import chats, our_loss, random_model
from tunesmith.models.language_model import LanguageModel
from tunesmith.tuners.base import build
from tunesmith.tuners.full import FullConfig
from tunesmith.tuners.full_impl import keep_reference

IDS = torch.arange(5, 45)[None]


@pytest.fixture
def tuner():
    return build(FullConfig())


def test_everything_is_trained(tuner):
    hf = random_model("llama").requires_grad_(False)
    tuner.apply(hf)
    assert all(p.requires_grad for p in hf.parameters())


def test_master_weights(tuner):
    model = LanguageModel(random_model("llama", torch.bfloat16))
    tuner.apply(model)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert model.autocast
    our_loss(model, chats()).backward()
    narrow = LanguageModel(random_model("llama", torch.bfloat16), master_weights=False)
    tuner.apply(narrow)
    assert {p.dtype for p in narrow.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("name", ["llama", "llama tied"])
def test_saved_and_loaded(tuner, tmp_path, name):
    model = LanguageModel(random_model(name))
    tuner.apply(model)
    torch.nn.init.normal_(model.hf.model.norm.weight)
    tuner.save(model, tmp_path)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(theirs(IDS).logits, model.hf(IDS).logits)
    other = random_model(name)
    tuner.load(other, tmp_path)
    assert torch.equal(other.model.norm.weight, model.hf.model.norm.weight)


def test_reference_is_what_was_kept(tuner):
    hf = random_model("llama")
    tuner.apply(hf)
    before = hf(IDS).logits
    keep_reference(hf)
    with torch.no_grad():
        hf.lm_head.weight.mul_(2)
    with tuner.reference(hf):
        assert torch.equal(hf(IDS).logits, before)
    torch.testing.assert_close(hf(IDS).logits, before * 2)
