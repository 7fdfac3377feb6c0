"""The schedule: closed forms, transformers' curves, and what resume may rely on."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, strategies as st

from tunesmith.recipe.sections import OptimConfig
from tunesmith.training.schedule import decaying, factor, length


def curve(total: int, **settings) -> list[float]:
    optim = OptimConfig(**settings)
    return [factor(step, total, optim) for step in range(total)]


def oracle(total: int, make, **settings) -> list[float]:
    """What one of transformers' schedules multiplies the learning rate by."""
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    scheduler = make(optimizer, **settings)
    rates = []
    for _ in range(total):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize("warmup", [0, 1, 7, 40])
@pytest.mark.parametrize("kind", ["linear", "cosine", "constant"])
def test_equals_transformers(kind, warmup):
    from transformers import optimization

    makers = {
        "linear": optimization.get_linear_schedule_with_warmup,
        "cosine": optimization.get_cosine_schedule_with_warmup,
        "constant": optimization.get_constant_schedule_with_warmup,
    }
    settings = {"num_warmup_steps": warmup}
    if kind != "constant":
        settings["num_training_steps"] = 40
    expected = oracle(40, makers[kind], **settings)
    ours = curve(40, lr_scheduler_type=kind, warmup_steps=float(warmup))
    assert ours == pytest.approx(expected, abs=1e-15)


def test_equals_transformers_with_a_smallest_rate():
    from transformers.optimization import get_cosine_with_min_lr_schedule_with_warmup as make

    expected = oracle(50, make, num_warmup_steps=5, num_training_steps=50, min_lr_rate=0.1)
    ours = curve(50, warmup_steps=5.0, learning_rate=2e-4, min_learning_rate=2e-5)
    assert ours == pytest.approx(expected, abs=1e-15)


def test_equals_transformers_wsd():
    from transformers.optimization import get_wsd_schedule as make

    expected = oracle(
        50,
        make,
        num_warmup_steps=5,
        num_decay_steps=10,
        num_training_steps=50,
        decay_type="linear",
    )
    ours = curve(50, lr_scheduler_type="wsd", warmup_steps=5.0, decay_steps=10.0)
    assert ours == pytest.approx(expected, abs=1e-15)


def test_closed_forms():
    assert curve(4, lr_scheduler_type="linear") == [1.0, 0.75, 0.5, 0.25]
    assert curve(4, lr_scheduler_type="constant", warmup_steps=2.0) == [0.0, 0.5, 1.0, 1.0]
    half = factor(5, 10, OptimConfig(lr_scheduler_type="cosine"))
    assert half == pytest.approx(0.5)
    assert curve(10, lr_scheduler_type="wsd", decay_steps=0.2)[-3:] == [1.0, 1.0, 0.5]


def test_a_share_is_rounded_up_and_a_count_is_not_a_share():
    assert length(0.1, 15) == 2
    assert length(0.0, 15) == 0
    assert length(1.0, 15) == 1
    assert length(3.0, 15) == 3


def test_warmup_longer_than_the_run_only_rises():
    rates = curve(10, warmup_steps=20.0)
    assert rates == [step / 20 for step in range(10)]


SETTINGS = st.builds(
    OptimConfig,
    learning_rate=st.just(1e-3),
    lr_scheduler_type=st.sampled_from(["linear", "cosine", "constant", "wsd"]),
    warmup_steps=st.one_of(st.floats(0, 0.99), st.integers(0, 50).map(float)),
    decay_steps=st.one_of(st.floats(0.01, 0.99), st.integers(1, 50).map(float)),
    min_learning_rate=st.floats(0, 1e-3),
)


@given(SETTINGS, st.integers(1, 60))
def test_stays_between_zero_and_one_and_ends_above_the_smallest(optim, total):
    rates = [factor(step, total, optim) for step in range(total + 1)]
    assert all(0.0 <= rate <= 1.0 + 1e-12 and math.isfinite(rate) for rate in rates)
    warmup = length(optim.warmup_steps, total)
    after = rates[warmup:]
    assert after == sorted(after, reverse=True)
    lowest = optim.min_learning_rate / optim.learning_rate
    assert all(rate >= lowest - 1e-12 for rate in after)
    if optim.lr_scheduler_type != "constant" and warmup < total:
        assert rates[-1] == pytest.approx(lowest)


@given(SETTINGS, st.integers(1, 40), st.integers(1, 40))
def test_what_is_not_decaying_does_not_depend_on_the_total(optim, total, other):
    """The law behind `decaying`: only such runs may get another length on resume."""
    if decaying(optim):
        return
    shared = range(min(total, other))
    first = [factor(step, total, optim) for step in shared]
    assert first == [factor(step, other, optim) for step in shared]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"lr_scheduler_type": "linear"}, True),
        ({"lr_scheduler_type": "cosine"}, True),
        ({"lr_scheduler_type": "wsd"}, True),
        ({"lr_scheduler_type": "constant"}, False),
        ({"lr_scheduler_type": "constant", "warmup_steps": 10.0}, False),
        ({"lr_scheduler_type": "constant", "warmup_steps": 0.1}, True),
    ],
)
def test_decaying(settings, expected):
    assert decaying(OptimConfig(**settings)) is expected
