"""The critic sees what it should, in any layout, and is fitted as its equation says."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tunesmith.losses.advantages import explained_variance
from tunesmith.stages.critic_impl import Critic, features

LONGEST, WIDTH = 12, 5


@pytest.fixture
def answers():
    """(states, mask): seven answers of different lengths, one of them empty."""
    rng = np.random.default_rng(0)
    mask_NA = np.arange(10) < np.array([10, 3, 1, 7, 0, 10, 4])[:, None]
    hidden_NAD = rng.normal(size=(*mask_NA.shape, WIDTH)).astype(np.float32)
    return hidden_NAD, mask_NA


@pytest.fixture
def critic():
    made = Critic(WIDTH, LONGEST, dtype=torch.float64, device=torch.device("cpu"))
    generator = torch.Generator().manual_seed(1)
    for parameter in made.parameters():
        parameter.data.normal_(generator=generator)
    return made


def test_values_are_those_of_the_features_whatever_lies_beside_them(answers, critic):
    hidden_NAD, mask_NA = answers
    head_F = torch.cat([p.detach() for p in critic.parameters()]).numpy()
    wanted_K = features(hidden_NAD, mask_NA, LONGEST) @ head_F
    values_NA = critic.expected(hidden_NAD, mask_NA)
    assert values_NA[mask_NA] == pytest.approx(wanted_K, rel=1e-4, abs=1e-5)
    assert (values_NA[~mask_NA] == 0).all()
    example_S = torch.from_numpy(np.nonzero(mask_NA)[0].copy())
    hidden_SD = torch.from_numpy(hidden_NAD[mask_NA])
    together_S = critic(hidden_SD, example_S)
    assert together_S.detach().numpy() == pytest.approx(wanted_K, rel=1e-5)
    alone = [critic(hidden_SD[example_S == n], example_S[example_S == n]) for n in range(7)]
    assert torch.allclose(torch.cat(alone), together_S, rtol=1e-12, atol=1e-12)


def test_a_value_knows_nothing_of_later_tokens(answers, critic):
    hidden_SD = torch.from_numpy(answers[0][0]).double().requires_grad_()
    critic(hidden_SD, torch.zeros(10, dtype=torch.long))[4].backward()
    moved_S = hidden_SD.grad.abs().sum(1)
    assert (moved_S[:5] > 0).all()
    assert (moved_S[5:] == 0).all()


@pytest.mark.parametrize("rows", [1, 30], ids=["fewer tokens than features", "several blocks"])
def test_the_fit_is_where_its_sum_is_least(rows, critic):
    rng = np.random.default_rng(2)
    mask_NA = np.arange(10) < rng.integers(6, 11, rows)[:, None]
    hidden_NAD = rng.normal(size=(rows, 10, WIDTH)).astype(np.float32)
    returns_NA = rng.normal(size=mask_NA.shape)
    flat = lambda: torch.cat([p.detach() for p in critic.parameters()])
    before_F, pull = flat(), 0.3
    critic.fit(hidden_NAD, mask_NA, returns_NA, pull)
    after_F = flat().requires_grad_()
    x_KF = torch.from_numpy(features(hidden_NAD, mask_NA, LONGEST))
    r_K = torch.from_numpy(returns_NA[mask_NA])
    held_F = pull * len(before_F) / rows * x_KF.square().sum(0)
    held_F[-2:] /= 100  # constant and time
    held = (held_F * (after_F - before_F).square()).sum()
    ((x_KF @ after_F - r_K).square().sum() + held).backward()
    assert (after_F - before_F).norm() > 0.1
    assert after_F.grad.norm() < 1e-9 * len(r_K)


def test_what_happened_earlier_in_an_answer_is_learned():
    """An answer earns the sum of a number in its states: a single state knows a twelfth of it,
    all so far know half of it on average."""
    rng = np.random.default_rng(3)
    made = Critic(WIDTH, LONGEST, dtype=torch.float32, device=torch.device("cpu"))
    mask_NA, explained = np.ones((64, LONGEST), bool), []
    for _ in range(8):
        hidden_NAD = rng.normal(size=(64, LONGEST, WIDTH)).astype(np.float32)
        returns_NA = np.repeat(hidden_NAD[..., 0].sum(1, keepdims=True), LONGEST, 1)
        values_NA = made.expected(hidden_NAD, mask_NA)
        explained.append(explained_variance(values_NA, returns_NA))
        made.fit(hidden_NAD, mask_NA, returns_NA, 0.3)
    assert explained[0] == 0
    assert explained[-1] > 0.35


def test_states_that_are_always_zero_are_left_alone(critic):
    past = critic.past.detach().clone()
    shape = (6, 2)
    critic.fit(
        np.zeros((*shape, WIDTH), np.float32), np.ones(shape, bool), np.full(shape, 3.0), 0.3
    )
    assert torch.equal(critic.past.detach(), past)
    values_NA = critic.expected(np.zeros((*shape, WIDTH), np.float32), np.ones(shape, bool))
    assert values_NA == pytest.approx(np.full(shape, 3.0), abs=0.1)
