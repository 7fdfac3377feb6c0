"""Advantages and the control of the KL, against plain loops and published numbers."""

from __future__ import annotations

import numpy as np
import pytest

from tunesmith.losses import advantages


def plain_gae(rewards, values, gamma, lam):
    """Σ_l (γλ)^l δ_{t+l}, written out as in the paper."""
    steps = len(rewards)
    after = [*values[1:], 0.0]
    deltas = [rewards[t] + gamma * after[t] - values[t] for t in range(steps)]
    return [sum((gamma * lam) ** n * d for n, d in enumerate(deltas[t:])) for t in range(steps)]


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.5), (1.0, 1.0), (0.99, 0.0)])
def test_gae_is_the_papers_sum_and_does_not_see_padding(gamma, lam):
    rng = np.random.default_rng(0)
    lengths = [5, 1, 3]
    mask_NA = np.arange(5) < np.array(lengths)[:, None]
    rewards_NA, values_NA = rng.normal(size=(2, 3, 5))  # padding holds garbage on purpose
    found_NA, returns_NA = advantages.gae(rewards_NA, values_NA, mask_NA, gamma, lam)
    for row, length in enumerate(lengths):
        wanted = plain_gae(rewards_NA[row, :length], values_NA[row, :length], gamma, lam)
        assert found_NA[row, :length] == pytest.approx(wanted)
        assert returns_NA[row, :length] == pytest.approx(wanted + values_NA[row, :length])
    assert not found_NA[~mask_NA].any()
    assert not returns_NA[~mask_NA].any()


def test_gae_without_a_discount_and_with_full_trace_is_return_less_value():
    rewards_NA, values_NA = np.array([[0.0, 0.0, 2.0]]), np.array([[0.5, 1.0, 1.5]])
    found_NA, returns_NA = advantages.gae(rewards_NA, values_NA, np.ones((1, 3), bool), 1.0, 1.0)
    assert found_NA[0].tolist() == [1.5, 1.0, 0.5]
    assert returns_NA[0].tolist() == [2.0, 2.0, 2.0]


def test_whitened_values_have_mean_0_and_variance_1_over_the_mask():
    values_NA = np.array([[1.0, 5.0, 99.0], [3.0, -2.0, 7.0]])
    mask_NA = np.array([[True, True, False], [True, True, True]])
    found_NA = advantages.whiten(values_NA, mask_NA)
    assert found_NA[0, 2] == 0
    assert found_NA[mask_NA].mean() == pytest.approx(0, abs=1e-12)
    assert found_NA[mask_NA].std() == pytest.approx(1, rel=1e-6)


def test_groups_are_centred_and_scaled():
    rewards_PG = np.array([[1.0, 0.0, 0.0, 1.0], [5.0, 5.0, 5.0, 5.0]])
    found_PG = advantages.group_normalised(rewards_PG)
    assert found_PG[0] == pytest.approx(np.array([1, -1, -1, 1]) * 0.5 / (0.57735027 + 1e-4))
    assert not found_PG[1].any()
    plain_PG = advantages.group_normalised(rewards_PG, "none")
    assert plain_PG[0].tolist() == [0.5, -0.5, -0.5, 0.5]
    batch_PG = advantages.group_normalised(rewards_PG, "batch")
    assert batch_PG[0] == pytest.approx(plain_PG[0] / (rewards_PG.std(ddof=1) + 1e-4))


def test_leave_one_out_takes_the_mean_of_the_others():
    found_PG = advantages.leave_one_out(np.array([[1.0, 2.0, 6.0]]))
    assert found_PG[0].tolist() == [1 - 4, 2 - 3.5, 6 - 1.5]


@pytest.mark.parametrize(("kl", "wanted"), [(12, 0.201024), (3, 0.198976), (6.6, 0.200512)])
def test_adaptive_kl_has_the_golden_values(kl, wanted):
    control = advantages.KlControl(0.2, target=6.0, horizon=10_000)
    control.update(kl, 256)
    assert control.value == pytest.approx(wanted, abs=1e-9)


def test_a_fixed_kl_stays():
    control = advantages.KlControl(0.2)
    control.update(50.0, 10_000)
    assert control.value == 0.2


def test_running_moments_are_those_of_all_values():
    values = np.random.default_rng(3).normal(4, 3, size=50)
    moments = advantages.Moments()
    for part in np.split(values, [1, 7, 30]):
        moments.update(part)
    assert moments.mean == pytest.approx(values.mean())
    assert moments.std == pytest.approx(values.std())


def test_explained_variance():
    returns = np.array([1.0, 2.0, 3.0])
    assert advantages.explained_variance(returns, returns) == 1
    assert advantages.explained_variance(np.full(3, 9.0), returns) == 0
    assert advantages.explained_variance(-returns, returns) == pytest.approx(-3)
