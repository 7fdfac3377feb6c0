"""Losses on sampled tokens, against plain formulas and autograd."""

from __future__ import annotations

import math

import pytest
import torch

from tunesmith.losses import policy
from tunesmith.losses.tokens import Head


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "cut"),
    [
        (1.1, 2.0, -2.2, False),
        (1.5, 2.0, -2.56, True),  # too far up for a good token: 1.28 is the line
        (1.5, -2.0, 3.0, False),  # and none for a bad one
        (0.5, 2.0, -1.0, False),
        (0.5, -2.0, 1.6, True),
    ],
)
def test_ratios_are_clipped_where_that_is_pessimistic(ratio, advantage, loss, cut):
    logprobs_S = torch.tensor([math.log(ratio)], dtype=torch.float64, requires_grad=True)
    old_S, advantages_S = torch.zeros(1).double(), torch.tensor([advantage]).double()
    found = policy.clipped(logprobs_S, old_S, advantages_S, 0.2, 0.28)
    assert found.losses_S.item() == pytest.approx(loss)
    assert found.clipped_S.item() is cut
    assert found.ratio_S.detach().item() == pytest.approx(ratio)
    found.losses_S.sum().backward()
    assert logprobs_S.grad is not None
    assert logprobs_S.grad.item() == pytest.approx(0.0 if cut else -advantage * ratio)


def test_values_may_not_run_from_what_they_were():
    values_S = torch.tensor([0.0, 0.5, 0.5])
    old_S, returns_S = torch.zeros(3), torch.tensor([1.0, 1.0, -1.0])
    plain_S = policy.clipped_values(values_S, old_S, returns_S, None)
    assert torch.equal(plain_S, 0.5 * (values_S - returns_S) ** 2)
    found_S = policy.clipped_values(values_S, old_S, returns_S, 0.2)
    assert found_S.tolist() == pytest.approx([0.5, 0.5 * 0.64, 0.5 * 2.25])


def test_estimators_of_the_kl():
    logprobs_S, reference_S = torch.tensor([-1.0, -2.0]), torch.tensor([-1.5, -1.0])
    assert policy.kl(logprobs_S, reference_S, "k1").tolist() == [0.5, -1.0]
    assert policy.kl(logprobs_S, reference_S, "k2").tolist() == [0.125, 0.5]
    wanted = [math.exp(-0.5) - 1 + 0.5, math.exp(1.0) - 1 - 1]
    assert policy.kl(logprobs_S, reference_S, "k3").tolist() == pytest.approx(wanted)


@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_unbiased_estimators_have_the_true_mean(estimator):
    p_V, q_V = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.2, 0.2, 0.6])
    found_V = policy.kl(p_V.log(), q_V.log(), estimator)
    assert (p_V * found_V).sum().item() == pytest.approx((p_V * (p_V / q_V).log()).sum().item())


@pytest.mark.parametrize("softcap", [None, 5.0])
def test_entropy_and_its_gradient_are_those_of_full_logits(softcap, monkeypatch):
    monkeypatch.setattr(policy, "chunk_rows", lambda weight: 3)
    torch.manual_seed(0)
    hidden_SD = torch.randn(8, 4, dtype=torch.float64, requires_grad=True)
    weight_VD = torch.randn(11, 4, dtype=torch.float64, requires_grad=True)
    found_S = policy.entropy(hidden_SD, Head(weight_VD, None, 0.5, softcap), 0.7)
    logits = 0.5 * hidden_SD @ weight_VD.T
    logits = logits if softcap is None else softcap * torch.tanh(logits / softcap)
    wanted_S = torch.distributions.Categorical(logits=logits / 0.7).entropy()
    assert torch.allclose(found_S, wanted_S)
    found = torch.autograd.grad(found_S.sum(), [hidden_SD, weight_VD], retain_graph=True)
    wanted = torch.autograd.grad(wanted_S.sum(), [hidden_SD, weight_VD])
    assert all(torch.allclose(a, b) for a, b in zip(found, wanted, strict=True))
