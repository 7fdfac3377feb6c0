"""Heads are read as the family computes them."""

from __future__ import annotations

import math

import pytest
import torch

from tests.models.families import random_model
from tunesmith.errors import EnvironmentFault
from tunesmith.models.heads import ScalarHead, head_of, verify


def test_scale_and_softcap_of_families():
    assert head_of(random_model("gemma2 softcap")).softcap == 30.0
    assert head_of(random_model("granite scales")).scale == 1 / 8
    assert head_of(random_model("phi bias")).bias_V is not None
    assert head_of(random_model("llama")).scale == 1.0


def test_a_head_that_does_more_is_found_out():
    hf = random_model("granite scales")
    verify(hf)
    hf.config.logits_scaling = 2.0
    hf.logits_scaling = 8.0
    hf.lm_head.register_forward_hook(lambda *given: given[-1] + 1.0)
    with pytest.raises(EnvironmentFault, match="E211"):
        verify(hf)


def test_scalar_head():
    torch.manual_seed(0)
    head = ScalarHead(1000)
    scores = head(torch.randn(7, 1000, dtype=torch.bfloat16))
    assert scores.shape == (7,)
    assert scores.dtype == torch.float32
    assert head.summary.weight.std().item() == pytest.approx(1 / math.sqrt(1001), rel=0.1)
