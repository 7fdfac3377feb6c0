"""Our element-wise kernels: gradients by finite differences, values by transformers' modules."""

from __future__ import annotations

import pytest
import torch
from transformers.models.llama.modeling_llama import LlamaRMSNorm, apply_rotary_pos_emb

from tunesmith.models.fused import EAGER, Gate, RmsNorm, Rotate
from tunesmith.models.kernels import compiled


def draw(*shape, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(len(shape)))


def leaf(*shape):
    return draw(*shape).requires_grad_()


def angles(T, E, dtype=torch.float64):
    angle = torch.arange(T, dtype=dtype)[:, None] * torch.linspace(0.1, 1, E // 2, dtype=dtype)
    angle = torch.cat([angle, angle], -1)
    return angle.cos(), angle.sin()


def test_norm_gradients():
    x, weight = leaf(3, 4, 6), leaf(6)
    assert torch.autograd.gradcheck(lambda x, w: RmsNorm.apply(x, w, 1e-6, EAGER), (x, weight))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_norm_as_transformers(dtype):
    module = LlamaRMSNorm(32, eps=1e-5).to(dtype)
    module.weight.data += draw(32).to(dtype)
    x = draw(2, 5, 32).to(dtype)
    torch.testing.assert_close(RmsNorm.apply(x, module.weight, 1e-5, EAGER), module(x))


@pytest.mark.parametrize("normed", [False, True])
def test_rotation_gradients(normed):
    x, weight = leaf(5, 2, 8), leaf(8) if normed else None
    tables = angles(5, 8)
    rotate = lambda x, w: Rotate.apply(x, w, 1e-6, *tables, EAGER)
    assert torch.autograd.gradcheck(rotate, (x, weight))


def test_rotation_as_transformers():
    x = draw(5, 2, 8, dtype=torch.float32)
    cos, sin = angles(5, 8, torch.float32)
    found = Rotate.apply(x, None, 0.0, cos, sin, EAGER)
    heads_first = x.transpose(0, 1)[None]
    wanted, _ = apply_rotary_pos_emb(heads_first, heads_first, cos[None], sin[None])
    torch.testing.assert_close(found, wanted[0].transpose(0, 1))


def test_gate_gradients():
    assert torch.autograd.gradcheck(lambda g, u: Gate.apply(g, u, EAGER), (leaf(3, 7), leaf(3, 7)))


@pytest.mark.slow
def test_compiled_kernels_compute_the_same():
    x, weight = draw(9, 3, 8, dtype=torch.float32), draw(8, dtype=torch.float32)
    tables = angles(9, 8, torch.float32)
    gradients = []
    for functions in (EAGER, compiled()):
        given = x.clone().requires_grad_()
        Rotate.apply(given, weight, 1e-6, *tables, functions).square().sum().backward()
        gradients.append(given.grad)
    torch.testing.assert_close(*gradients)
