"""Whatever library multiplies, and however the operands lie in memory, it is x Wᵀ + b."""

from __future__ import annotations

import pytest
import torch

from tunesmith.losses.products import add_linear, lay_out, linear, packed_linear


def operands(layout: str, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(37, 24, generator=generator, dtype=dtype)
    weight = torch.randn(40, 24, generator=generator, dtype=dtype)
    if layout == "transposed":
        weight = weight.t().contiguous().t()
    elif layout == "slice of rows":
        weight = torch.randn(40, 48, generator=generator, dtype=dtype)[:, :24]
    elif layout == "strided input":
        x = torch.randn(37, 48, generator=generator, dtype=dtype)[:, ::2]
    return x, weight


LAYOUTS = ["plain", "transposed", "slice of rows", "strided input"]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_linear(layout, dtype):
    x, weight = operands(layout, dtype)
    bias = torch.arange(40, dtype=dtype)
    torch.testing.assert_close(linear(x, weight, bias), x @ weight.t() + bias)
    torch.testing.assert_close(linear(x[None], weight), (x @ weight.t())[None])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_add_linear(layout):
    x, weight = operands(layout)
    start = torch.ones(37, 40)
    torch.testing.assert_close(add_linear(start.clone(), x, weight), start + x @ weight.t())
    torch.testing.assert_close(add_linear(None, x, weight), x @ weight.t())


def test_laid_out():
    x, weight = operands("plain")
    packed = lay_out(weight)
    if packed is None:
        pytest.skip("this CPU gains nothing from another layout")
    torch.testing.assert_close(packed_linear(x, packed), x @ weight.t())


def test_no_rows():
    assert linear(torch.empty(0, 24), torch.empty(40, 24)).shape == (0, 40)
