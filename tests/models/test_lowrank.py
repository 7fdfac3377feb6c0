"""Linear layers with deltas: every way of computing them gives the same values and gradients."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from tunesmith.models.lowrank import FEW, LowRankLinear, Origin, project, weight_of


def layer(inputs=6, outputs=5, seed=0, base=None, **options) -> LowRankLinear:
    torch.manual_seed(seed)
    if base is None:
        base = nn.Linear(inputs, outputs).double()
    options = {"rank": 2, "scale": 1.5, "dtype": torch.float64, **options}
    made = LowRankLinear(base.requires_grad_(False), **options)
    nn.init.normal_(made.lora_B)
    return made


def written_out(x, made):
    return F.linear(x, weight_of(made), made.bias) + made.scale * (x @ made.lora_A.t()) @ (
        made.lora_B.t()
    )


@pytest.mark.parametrize("rows", [3, FEW + 1])
def test_values_and_gradients(rows):
    """For few rows the delta stays beside the weight, for many it is added to it."""
    made = layer()
    x = torch.randn(2, rows, 6, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(2, rows, 5, dtype=torch.float64)
    leaves = [x, made.lora_A, made.lora_B]
    found, wanted = made(x), written_out(x, made)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    gradients = torch.autograd.grad(found, leaves, upstream)
    for one, other in zip(gradients, torch.autograd.grad(wanted, leaves, upstream), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("rows", [3, FEW + 1])
def test_layers_on_one_input(rows):
    """Adapted, switched off, plain frozen and plain trained layers together."""
    off = layer(outputs=3, seed=1)
    off.enabled = False
    plain = nn.Linear(6, 4).double().requires_grad_(False)
    trained = nn.Linear(6, 4).double()
    layers = [layer(), off, plain, layer(outputs=7, seed=2, rank=3), trained]
    x = torch.randn(1, rows, 6, dtype=torch.float64, requires_grad=True)
    outputs = project(x, layers)
    wanted = [written_out(x, layers[0]), F.linear(x, off.weight, off.bias), plain(x)]
    wanted += [written_out(x, layers[3]), trained(x)]
    leaves = [x, layers[0].lora_A, layers[3].lora_B, trained.weight, trained.bias]
    total = lambda ys: sum((y**2).sum() for y in ys)
    for one, other in zip(outputs, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    gradients = torch.autograd.grad(total(outputs), leaves)
    expected = torch.autograd.grad(total(wanted), leaves)
    for one, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("rows", [3, FEW + 1])
def test_an_input_that_can_be_made_again_is_not_kept(rows):
    layers = [layer(), nn.Linear(6, 4).double()]
    source = torch.randn(1, rows, 6, dtype=torch.float64, requires_grad=True)
    leaves = [source, layers[0].lora_A, layers[0].lora_B, layers[1].weight]

    def run(remade):
        kept = []
        note = lambda t: kept.append(t.data_ptr()) or t
        x = source.exp()
        origin = Origin(torch.exp, (source.detach(),)) if remade else None
        with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
            total = sum((y**2).sum() for y in project(x, layers, origin))
        return torch.autograd.grad(total, leaves), x.data_ptr() in kept

    (plain, held), (again, still_held) = run(False), run(True)
    assert held
    assert not still_held
    for one, other in zip(plain, again, strict=True):
        assert torch.equal(one, other)


def test_frozen_weights_get_no_gradient():
    made = layer()
    made(torch.randn(70, 6, dtype=torch.float64)).sum().backward()
    assert made.weight.grad is None
    assert made.bias.grad is None
    assert made.lora_B.grad is not None


def test_stored_transposed():
    torch.manual_seed(0)
    base = Conv1D(5, 6).double()
    made = layer(base=base)
    x = torch.randn(70, 6, dtype=torch.float64)
    torch.testing.assert_close(made(x), base(x) + (x @ made.lora_A.t() @ made.lora_B.t()) * 1.5)
    merged = made.merged()
    assert isinstance(merged, Conv1D)
    torch.testing.assert_close(merged(x), made(x), rtol=1e-12, atol=1e-12)


def test_dropout_is_only_at_work_in_training():
    made = layer(dropout=0.5)
    x = torch.randn(70, 6, dtype=torch.float64)
    made.eval()
    torch.testing.assert_close(made(x), written_out(x, made))
    made.train()
    torch.manual_seed(0)
    averaged = torch.stack([made(x) for _ in range(3000)]).mean(0)
    assert not torch.equal(made(x), written_out(x, made))
    torch.testing.assert_close(averaged, written_out(x, made), rtol=0.3, atol=0.5)


def test_dora_starts_as_the_base_and_merges():
    torch.manual_seed(0)
    base = nn.Linear(6, 5).double()
    made = LowRankLinear(base, rank=2, scale=1.5, dora=True, dtype=torch.float64)
    x = torch.randn(70, 6, dtype=torch.float64)
    torch.testing.assert_close(made(x), base(x))
    nn.init.normal_(made.lora_B)
    nn.init.normal_(made.lora_magnitude, 1.0)
    torch.testing.assert_close(made.merged()(x), made(x))


def test_half_precision_keeps_small_deltas():
    """Added to a bfloat16 weight, a delta of 1/1000 of it would vanish."""
    base = nn.Linear(64, 64, bias=False)
    nn.init.ones_(base.weight)
    made = LowRankLinear(base.bfloat16().requires_grad_(False), rank=1, scale=1.0)
    nn.init.constant_(made.lora_A, 1e-3)
    nn.init.ones_(made.lora_B)
    x = torch.full((100, 64), 1.0, dtype=torch.bfloat16, requires_grad=True)
    x.data[:, ::2] = -1.0
    x.data[:, 0] = 1.0
    assert made(x).mean().item() == pytest.approx(2.002, rel=1e-2)
    made(x).sum().backward()
    assert made.lora_A.grad.dtype == torch.float32
    assert x.grad.dtype == torch.bfloat16


def test_a_wider_stream_is_narrowed():
    base = nn.Linear(6, 5).bfloat16().requires_grad_(False)
    made = LowRankLinear(base, rank=2, scale=1.0)
    assert made(torch.randn(3, 6)).dtype == torch.bfloat16
