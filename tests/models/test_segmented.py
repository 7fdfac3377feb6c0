"""Blocked attention against scores written out, for every length, window and grouping of heads."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tunesmith.models import segmented
from tunesmith.models.attention import Plan, Rule, attend
from tunesmith.models.segmented import BLOCK, SegmentedAttention, Shape, blocks
from tunesmith.types import Segments


def segments(*lengths):
    lengths = np.array(lengths, np.int32)
    none = np.zeros(len(lengths), np.int32)
    return Segments(np.cumsum(lengths, dtype=np.int32) - lengths, lengths, none - 1, none)


def heads(T, H=6, K=2, E=8, dtype=torch.float64):
    generator = torch.Generator().manual_seed(T)
    shapes = ((T, H, E), (T, K, E), (T, K, E), (T, H, E))
    *qkv, upstream = (torch.randn(s, generator=generator, dtype=dtype) for s in shapes)
    return [t.requires_grad_() for t in qkv], upstream


@pytest.mark.parametrize("lengths", [(1,), (BLOCK,), (BLOCK + 1, 3), (5, 2 * BLOCK + 7, 1)])
@pytest.mark.parametrize("window", [None, 1, 20, BLOCK + 5])
@pytest.mark.parametrize("K", [1, 2, 6])
def test_as_written_out(lengths, window, K):
    qkv, upstream = heads(sum(lengths), K=K)
    rule = Rule(0.3, window=window)
    found, wanted = (
        attend(*qkv, Plan(segments(*lengths), sum(lengths), torch.device("cpu"), kind), rule, 2)
        for kind in ("blocks", "eager")
    )
    torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-11)
    gradients = torch.autograd.grad(found, qkv, upstream)
    for one, other in zip(gradients, torch.autograd.grad(wanted, qkv, upstream), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", ["blocks", "sdpa", "eager"])
@pytest.mark.parametrize(
    ("prompt", "answers"), [(1, (1, 1)), (5, (3, BLOCK + 9)), (BLOCK + 2, (7, 2, 40))]
)
def test_answers_behind_one_prompt_equal_answers_behind_their_own(kind, prompt, answers):
    """Outputs and gradients of a shared prompt are those of copies of it, the latter summed."""
    rule = Rule(0.3)
    lengths = (prompt, *answers)
    tree = segments(*lengths)
    tree.parent_G[1:] = 0
    T = sum(lengths)
    qkv, upstream = heads(T)
    shared = attend(*qkv, Plan(tree, T, torch.device("cpu"), kind), rule, 2)
    ends = np.cumsum(lengths)
    copies = [
        [*range(prompt), *range(end - length, end)]
        for end, length in zip(ends[1:], answers, strict=True)
    ]
    where = torch.tensor([at for copy in copies for at in copy])
    apart = [t.detach()[where].requires_grad_() for t in qkv]
    plain = segments(*(prompt + length for length in answers))
    written = attend(*apart, Plan(plain, len(where), torch.device("cpu"), "eager"), rule, 2)
    torch.testing.assert_close(shared[where], written, rtol=1e-11, atol=1e-11)
    wanted = torch.autograd.grad(written, apart, upstream[where])
    # A row of the shared prompt has its upstream gradient once for each copy.
    often = torch.bincount(where, minlength=T).to(upstream.dtype)[:, None, None]
    found = torch.autograd.grad(shared, qkv, upstream * often)
    for one, other in zip(found, wanted, strict=True):
        summed = torch.zeros_like(one).index_add(0, where, other)
        torch.testing.assert_close(one, summed, rtol=1e-10, atol=1e-10)


def test_probabilities_are_recomputed_where_memory_is_dear(monkeypatch):
    qkv, upstream = heads(2 * BLOCK + 3)
    shape = Shape(blocks([(0, 2 * BLOCK + 3)], None), 0.3, None, layers=2)
    kept = torch.autograd.grad(SegmentedAttention.apply(*qkv, shape), qkv, upstream)
    monkeypatch.setattr(segmented, "KEEP_BYTES", 0)
    output = SegmentedAttention.apply(*qkv, shape)
    assert output.grad_fn.saved_tensors[-1] is None
    for one, other in zip(torch.autograd.grad(output, qkv, upstream), kept, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_heads_may_lie_anyhow_in_memory():
    (q, k, v), _ = heads(40)
    plan = Plan(segments(40), 40, torch.device("cpu"))
    scattered = [t.detach().transpose(0, 1).contiguous().transpose(0, 1) for t in (q, k, v)]
    torch.testing.assert_close(
        attend(*scattered, plan, Rule(0.3), 2), attend(q, k, v, plan, Rule(0.3), 2)
    )


def test_dropout_goes_another_way():
    qkv, _ = heads(30, dtype=torch.float32)
    plan = Plan(segments(30), 30, torch.device("cpu"))
    torch.manual_seed(0)
    dropped = attend(*qkv, plan, Rule(0.3, dropout=0.5), 2)
    assert not torch.allclose(dropped, attend(*qkv, plan, Rule(0.3), 2))
