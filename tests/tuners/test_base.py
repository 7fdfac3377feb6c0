"""Parameter groups: matrices decay, vectors don't."""

from __future__ import annotations

from tests.models.families import random_model
from tunesmith.tuners.base import decay_groups


def test_groups():
    hf = random_model("phi bias")
    decayed, plain = decay_groups(hf, 0.1)
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.1, 0.0)
    assert all(p.dim() >= 2 for p in decayed["params"])
    assert all(p.dim() < 2 for p in plain["params"])
    assert len(decayed["params"]) + len(plain["params"]) == len(list(hf.parameters()))
    named = dict(hf.named_parameters())
    assert all(named[n] is p for n, p in zip(plain["names"], plain["params"], strict=True))


def test_a_group_without_parameters_is_left_out():
    hf = random_model("llama").requires_grad_(False)
    assert decay_groups(hf, 0.1) == []
    hf.lm_head.requires_grad_(True)
    assert [g["names"] for g in decay_groups(hf, 0.1)] == [["lm_head.weight"]]
