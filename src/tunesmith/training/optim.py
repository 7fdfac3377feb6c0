"""AdamW, and its state as tensors named after the parameters they belong to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tunesmith.errors import ConfigError, RunError
from tunesmith.recipe.sections import OptimConfig
from tunesmith.training.shards import place

FUSED_DEVICES = ("cpu", "cuda", "xpu", "mps")
"""Devices for which torch 2.13 has a fused AdamW."""


def build(groups: Iterable[dict[str, Any]], optim: OptimConfig, device: Any) -> torch.optim.AdamW:
    """AdamW over parameter groups.

    Args:
        groups: Dicts with `params` and their own `weight_decay`, as tuners give them.
        optim: Rates and betas; the loop sets the learning rate of each step.
        device: Where the parameters are; decides what `implementation: auto` means.

    Raises:
        ConfigError: C196, `implementation: fused` on a device that has none.
    """
    kind = torch.device(device).type
    if optim.implementation == "fused" and kind not in FUSED_DEVICES:
        raise ConfigError(
            "C196",
            f"AdamW has no fused implementation on `{kind}`",
            where="optim.implementation",
            fix="set optim.implementation: auto",
        )
    fused = optim.implementation != "foreach" and kind in FUSED_DEVICES
    return torch.optim.AdamW(
        groups,
        lr=optim.learning_rate,
        betas=(optim.adam_beta1, optim.adam_beta2),
        eps=optim.adam_epsilon,
        weight_decay=optim.weight_decay,
        fused=fused,
        foreach=not fused,
    )


def state_tensors(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]
) -> dict[str, Tensor]:
    """The optimizer's state as `exp_avg/<name>`, `exp_avg_sq/<name>`, `step/<name>`; no copies.

    Parameters that never had a gradient have no state and are left out.
    """
    return {
        f"{key}/{name}": value
        for name, parameter in parameters.items()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def load_state_tensors(
    optimizer: torch.optim.Optimizer,
    parameters: Mapping[str, nn.Parameter],
    tensors: Mapping[str, Tensor],
) -> None:
    """Replaces the optimizer's state by what `state_tensors` gave, bit for bit.

    Raises:
        RunError: R115, a tensor belongs to no parameter of this run or has another shape.
    """
    optimizer.state.clear()
    for full_name, tensor in tensors.items():
        key, _, name = full_name.partition("/")
        parameter = parameters.get(name)
        if parameter is None or (key != "step" and tensor.shape != parameter.shape):
            raise RunError(
                "R115",
                f"the checkpoint's optimizer state `{full_name}` {tuple(tensor.shape)} fits no "
                "trained parameter of this run",
                why="The checkpoint comes from a run with another tuner, model or stage.",
                fix="resume with the run's own recipe",
            )
        if key == "step":  # the fused kernel wants it beside the parameter, the other on the CPU
            device = parameter.device if optimizer.defaults["fused"] else "cpu"
            optimizer.state[parameter][key] = tensor.to(device, copy=True)
        else:
            optimizer.state[parameter][key] = place(tensor, parameter)
