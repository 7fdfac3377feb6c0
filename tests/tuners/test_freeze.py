"""Partial training: which layers, counted in closed form."""

from __future__ import annotations

import pytest
import torch

from tests.models.families import chats, gradients, our_loss, random_model
from tunesmith.models.language_model import LanguageModel
from tunesmith.tuners.base import build
from tunesmith.tuners.freeze import FreezeConfig

# attention q, k, v, o of 4 and 2 heads of 16, the MLP's three matrices, two norms
LAYER = 64 * 64 + 2 * 64 * 32 + 64 * 64 + 3 * 64 * 96 + 2 * 64


@pytest.mark.parametrize(("fields", "count", "layers"), [
    ({"num_layers": 1}, LAYER, {1}),
    ({"num_layers": 2}, 2 * LAYER, {0, 1}),
    ({"num_layers": -1}, LAYER, {0}),
    ({"num_layers": 0, "modules": ("lm_head",)}, 100 * 64, set()),
    ({"num_layers": 1, "modules": ("model.norm",)}, LAYER + 64, {1}),
    ({"num_layers": 0, "modules": ("q_proj",)}, 2 * 64 * 64, {0, 1}),
])  # fmt: skip
def test_what_is_trained(fields, count, layers):
    hf = random_model("llama")
    build(FreezeConfig(**fields)).apply(hf)
    trained = {n: p for n, p in hf.named_parameters() if p.requires_grad}
    assert sum(p.numel() for p in trained.values()) == count
    assert {int(n.split(".")[2]) for n in trained if "layers" in n} == layers


def test_only_that_gets_gradients():
    model = LanguageModel(random_model("qwen3"))
    build(FreezeConfig(num_layers=1)).apply(model)
    our_loss(model, chats()).backward()
    assert gradients(model.hf)
    assert all(name.startswith("model.layers.1.") for name in gradients(model.hf))


def test_trained_layers_are_float32_in_a_bfloat16_model():
    model = LanguageModel(random_model("llama", torch.bfloat16))
    build(FreezeConfig(num_layers=1)).apply(model)
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    assert {p.dtype for p in model.parameters() if not p.requires_grad} == {torch.bfloat16}
    our_loss(model, chats()).backward()
    assert all(g.isfinite().all() for g in gradients(model.hf).values())
