"""One process keeps the promises of a backend."""

from __future__ import annotations

import math

import pytest
import torch

from tunesmith.parallel.base import build
from tunesmith.parallel.single import SingleConfig


@pytest.fixture
def parallel():
    return build(SingleConfig(), "cpu")


def parameters():
    made = [torch.nn.Parameter(torch.zeros(2)) for _ in range(3)]
    made[0].grad = torch.tensor([3.0, 0.0])
    made[1].grad = torch.tensor([0.0, 4.0])
    return made  # the third has no gradient


def test_the_world_is_one(parallel):
    assert (parallel.rank, parallel.world) == (0, 1)
    assert parallel.device == torch.device("cpu")
    assert parallel.sum({"tokens": 3.0}) == {"tokens": 3.0}
    parallel.barrier()


def test_clip(parallel):
    trained = parameters()
    assert parallel.clip(trained, 1.0).item() == 5.0
    assert math.isclose(torch.cat([p.grad for p in trained[:2]]).norm().item(), 1.0, rel_tol=1e-5)
    assert parallel.clip(trained, 10.0).item() == pytest.approx(1.0, rel=1e-5)


def test_clip_of_zero_only_measures(parallel):
    trained = parameters()
    assert parallel.clip(trained, 0.0).item() == 5.0
    assert trained[0].grad.tolist() == [3.0, 0.0]


def test_a_step_moves_and_clears(parallel):
    trained = parameters()
    optimizer = torch.optim.SGD(trained, lr=1.0)
    with parallel.accumulate(torch.nn.Module(), last=True):
        parallel.backward((trained[2] * 2).sum())
    parallel.step(optimizer)
    assert trained[2].tolist() == [-2.0, -2.0]
    assert all(p.grad is None for p in trained)
