"""Preference losses against closed forms, golden numbers and each other."""

from __future__ import annotations

import math

import pytest
import torch

from tunesmith.losses import preference


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def tensor(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_dpo_golden():
    # log π −10 and −12, reference −11 and −11.5: a margin of 1.5
    loss = preference.dpo(tensor((-10 + 11) - (-12 + 11.5)), 0.1, "sigmoid")
    assert loss.item() == pytest.approx(0.6209570478, abs=1e-10)


@pytest.mark.parametrize("margin", [-3.0, 0.0, 0.7, 20.0])
def test_dpo_closed_forms(margin):
    beta, eps = 0.3, 0.2
    p = sigmoid(beta * margin)
    found = lambda kind, smoothing=0.0: preference.dpo(tensor(margin), beta, kind, smoothing).item()
    assert found("sigmoid") == pytest.approx(-math.log(p))
    assert found("sigmoid", eps) == pytest.approx(-(1 - eps) * math.log(p) - eps * math.log(1 - p))
    assert found("robust", eps) == pytest.approx(
        (-(1 - eps) * math.log(p) + eps * math.log(1 - p)) / (1 - 2 * eps)
    )
    assert found("hinge") == pytest.approx(max(0.0, 1 - beta * margin))
    assert found("ipo") == pytest.approx((margin - 1 / (2 * beta)) ** 2)


def test_robust_is_unbiased_under_flipped_labels():
    eps, margin = 0.3, 1.1
    loss = lambda m: preference.dpo(tensor(m), 0.5, "robust", eps).item()
    clean = preference.dpo(tensor(margin), 0.5, "sigmoid").item()
    assert (1 - eps) * loss(margin) + eps * loss(-margin) == pytest.approx(clean)


def test_simpo_closed_form():
    loss = preference.simpo(tensor(-0.8), tensor(-1.5), 2.0, 0.5)
    assert loss.item() == pytest.approx(-math.log(sigmoid(2.0 * (0.7 - 0.5))))


@pytest.mark.parametrize(("chosen", "rejected"), [(-0.4, -1.2), (-2.0, -0.1), (-1e-9, -3.0)])
def test_odds_ratio_closed_form(chosen, rejected):
    odds = lambda logp: math.exp(logp) / -math.expm1(min(logp, -1e-7))
    ratio = math.log(odds(chosen)) - math.log(odds(rejected))
    loss = preference.odds_ratio(tensor(chosen), tensor(rejected)).item()
    assert loss == pytest.approx(math.log1p(math.exp(-ratio)))


def test_kto_closed_form():
    ratios, verdicts = tensor(1.2, -0.7), torch.tensor([True, False])
    good, bad = preference.kto(ratios, verdicts, torch.tensor(0.25), 0.4, (1.5, 0.5)).tolist()
    assert good == pytest.approx(1.5 * (1 - sigmoid(0.4 * (1.2 - 0.25))))
    assert bad == pytest.approx(0.5 * (1 - sigmoid(0.4 * (0.25 + 0.7))))
