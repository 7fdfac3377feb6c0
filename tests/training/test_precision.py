"""The loss scale of float16: exact, recovers, gives up, and resumes."""

from __future__ import annotations

import pytest
import torch

from tunesmith.errors import RunError
from tunesmith.training.precision import GROWTH_INTERVAL, LossScale


def test_grows_after_an_interval_of_finite_steps_only():
    scale = LossScale(enabled=True)
    for _ in range(GROWTH_INTERVAL - 1):
        scale.update(finite=True)
    assert scale.value == 2.0**16
    scale.update(finite=False)
    for _ in range(GROWTH_INTERVAL - 1):
        scale.update(finite=True)
    assert scale.value == 2.0**15
    scale.update(finite=True)
    assert scale.value == 2.0**16


def test_gives_up_after_twenty_overflows_in_a_row():
    scale = LossScale(enabled=True)
    for _ in range(19):
        scale.update(finite=False)
    scale.update(finite=True)
    for _ in range(19):
        scale.update(finite=False)
    with pytest.raises(RunError) as caught:
        scale.update(finite=False)
    assert caught.value.code == "R210"
    assert "20 steps in a row" in str(caught.value)


def test_unscaling_rounds_nothing():
    torch.manual_seed(0)
    parameters = [torch.nn.Parameter(torch.zeros(5)), torch.nn.Parameter(torch.zeros(2))]
    grads = [torch.randn(5), torch.randn(2)]
    scale = LossScale(enabled=True)
    for parameter, grad in zip(parameters, grads, strict=True):
        parameter.grad = grad * scale.value
    unused = torch.nn.Parameter(torch.zeros(3))
    scale.unscale([*parameters, unused])
    assert all(torch.equal(p.grad, g) for p, g in zip(parameters, grads, strict=True))
    assert unused.grad is None


def test_saves_tiny_gradients_that_float16_would_lose():
    """The reason it exists: without a scale this gradient is zero."""

    def gradient(scale: LossScale) -> float:
        weight = torch.nn.Parameter(torch.tensor([1.0]))
        product = weight.half() * torch.tensor([1e-5]).half()
        loss = (product.float() * 1e-4).sum() * scale.value
        loss.backward()
        scale.unscale([weight])
        return weight.grad.item()

    assert gradient(LossScale()) == 0.0
    assert gradient(LossScale(enabled=True)) == pytest.approx(1e-9, rel=1e-2)


def test_state_goes_through_a_checkpoint():
    scale = LossScale(enabled=True)
    for finite in [False] * 3 + [True] * 1999:
        scale.update(finite=finite)
    other = LossScale(enabled=True)
    other.load_state(scale.state())
    scale.update(finite=True)
    other.update(finite=True)
    assert other.state() == scale.state()
    assert other.value == 2.0**14


def test_off_it_is_one_and_stays_so():
    scale = LossScale()
    for _ in range(100):
        scale.update(finite=False)
    scale.load_state({"value": 4.0, "good": 1, "bad": 1})
    assert scale.value == 1.0
