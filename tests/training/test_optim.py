"""AdamW: resumed training equals uninterrupted training bit for bit, in every implementation."""

from __future__ import annotations

import pytest
import torch

from tunesmith.errors import ConfigError, RunError
from tunesmith.recipe.sections import OptimConfig
from tunesmith.training import checkpoint, optim


def model(seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))


def groups(module: torch.nn.Module) -> list[dict]:
    named = list(module.named_parameters())
    return [
        {"params": [p for n, p in named if "weight" in n], "weight_decay": 0.1},
        {"params": [p for n, p in named if "bias" in n], "weight_decay": 0.0},
    ]


def train(module, optimizer, first: int, last: int) -> None:
    for step in range(first, last):
        torch.manual_seed(100 + step)
        module(torch.randn(4, 6)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("implementation", ["auto", "fused", "foreach"])
def test_resume_is_exact(tmp_path, implementation):
    config = OptimConfig(learning_rate=1e-2, implementation=implementation)
    whole = model()
    whole_optimizer = optim.build(groups(whole), config, "cpu")
    train(whole, whole_optimizer, 0, 5)
    named = dict(whole.named_parameters())
    checkpoint.save(
        tmp_path,
        5,
        weights=named,
        optimizer=optim.state_tensors(whole_optimizer, named),
        state={},
        limit=None,
        best=None,
    )
    train(whole, whole_optimizer, 5, 12)

    other = model(seed=1)
    other_named = dict(other.named_parameters())
    other_optimizer = optim.build(groups(other), config, "cpu")
    saved = checkpoint.newest(tmp_path)
    with torch.no_grad():
        for name, tensor in saved.weights().items():
            other_named[name].copy_(tensor)
    optim.load_state_tensors(other_optimizer, other_named, saved.optimizer())
    train(other, other_optimizer, 5, 12)

    assert all(torch.equal(p, other_named[n]) for n, p in named.items())
    first = optim.state_tensors(whole_optimizer, named)
    second = optim.state_tensors(other_optimizer, other_named)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_forgetting_the_moments_would_show():
    """The exactness test can fail: without the state the weights differ."""
    config = OptimConfig(learning_rate=1e-2)
    whole, other = model(), model()
    whole_optimizer = optim.build(groups(whole), config, "cpu")
    train(whole, whole_optimizer, 0, 5)
    other.load_state_dict(whole.state_dict())
    train(whole, whole_optimizer, 5, 6)
    train(other, optim.build(groups(other), config, "cpu"), 5, 6)
    assert not torch.equal(whole[0].weight, other[0].weight)


def test_state_is_named_after_parameters():
    module = model()
    optimizer = optim.build(groups(module), OptimConfig(), "cpu")
    named = dict(module.named_parameters())
    assert optim.state_tensors(optimizer, named) == {}
    train(module, optimizer, 0, 3)
    tensors = optim.state_tensors(optimizer, named)
    assert set(tensors) == {
        f"{key}/{name}" for key in ("exp_avg", "exp_avg_sq", "step") for name in named
    }
    assert tensors["step/0.weight"].item() == 3.0
    moments = tensors["exp_avg/0.weight"]
    assert moments.data_ptr() == optimizer.state[module[0].weight]["exp_avg"].data_ptr()


def test_weight_decay_is_that_of_the_group():
    module = model()
    optimizer = optim.build(groups(module), OptimConfig(learning_rate=0.5), "cpu")
    before = {n: p.detach().clone() for n, p in module.named_parameters()}
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in module.named_parameters():
        shrunk = before[name] * (0.95 if "weight" in name else 1.0)
        assert torch.allclose(parameter, shrunk)


def test_auto_is_fused_where_the_device_has_it():
    build = lambda **s: optim.build(groups(model()), OptimConfig(**s), "cpu")
    assert build().defaults["fused"] is True
    assert build(implementation="foreach").defaults["fused"] is False


def test_fused_on_a_device_without_it_is_refused():
    with pytest.raises(ConfigError) as caught:
        optim.build(groups(model()), OptimConfig(implementation="fused"), "meta")
    assert caught.value.code == "C196"
    assert optim.build(groups(model()), OptimConfig(), "meta").defaults["fused"] is False


@pytest.mark.parametrize(
    "tensors",
    [
        {"exp_avg/nobody": torch.zeros(3)},
        {"exp_avg/0.weight": torch.zeros(3)},
        {"step/nobody": torch.zeros(())},
    ],
)
def test_state_of_another_model_is_refused(tensors):
    module = model()
    optimizer = optim.build(groups(module), OptimConfig(), "cpu")
    with pytest.raises(RunError) as caught:
        optim.load_state_tensors(optimizer, dict(module.named_parameters()), tensors)
    assert caught.value.code == "R115"
