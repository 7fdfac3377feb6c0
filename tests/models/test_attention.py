"""The plan of a batch reaches attention through any family's code, or attention fails."""

from __future__ import annotations

import numpy as np
import torch

from tests.models.families import random_model
from tests.models.test_segmented import segments
from tunesmith.models import attention
from tunesmith.models.attention import NAME, Plan, carried, carry
from tunesmith.models.language_model import LanguageModel

CPU = torch.device("cpu")


def test_a_mask_carries_its_plan():
    plan = Plan(segments(3, 4), 7, CPU)
    mask = carry(plan)
    assert mask.dim() == 4
    assert carried(mask) is plan
    assert carried(None) is None
    assert carried(torch.ones(1, 7)) is None


def test_padding_after_the_last_segment_sees_only_itself():
    plan = Plan(segments(3, 4), 10, CPU)
    assert plan.bounds == [(0, 3), (3, 7), (7, 10)]
    assert plan.ends().tolist() == [0, 3, 7, 10]
    assert plan.longest == 4


def test_a_lost_plan_is_an_error_not_a_wrong_result():
    qkv = [torch.randn(1, 2, 7, 8) for _ in range(3)]
    lost = carry(Plan(segments(3, 4), 7, CPU)).clone()
    try:
        attention._attend(torch.nn.Module(), *qkv, lost)
    except RuntimeError:
        return
    raise AssertionError("attention went on without its plan")


def test_generation_still_goes_through_transformers():
    model = LanguageModel(random_model("llama"))
    assert model.hf.config._attn_implementation == NAME
    plain = random_model("llama")
    ids = torch.arange(5, 15)[None]
    options = {"max_new_tokens": 8, "do_sample": False}
    ours, theirs = model.hf.generate(ids, **options), plain.generate(ids, **options)
    assert torch.equal(ours, theirs)
    padded = torch.cat([torch.zeros(1, 3, dtype=torch.long), ids], 1)
    mask = (padded > 0).long()
    again = model.hf.generate(padded, attention_mask=mask, **options)
    assert torch.equal(again[:, 3:], theirs)


def test_plans_of_many_segments():
    lengths = np.random.default_rng(0).integers(1, 400, 20)
    plan = Plan(segments(*lengths), int(lengths.sum()), CPU)
    covered = sorted(p for b in plan.blocks(None) for p in range(b.first, b.last))
    assert covered == list(range(lengths.sum()))
