"""The learning rate as a pure function of the step: nothing to save, nothing to restore.

Steps count updates from 0: `factor(0, …)` scales the rate of the first update. `linear` and
`cosine` are the curves of transformers' schedules of the same name; `wsd` (warmup-stable-decay, Hu
et al. 2024, arXiv:2404.06395) is flat, then falls linearly.
"""

from __future__ import annotations

import math

from tunesmith.recipe.sections import OptimConfig


def factor(step: int, total: int, optim: OptimConfig) -> float:
    """What `optim.learning_rate` is multiplied by for one update.

    Args:
        step: Updates already done, from 0.
        total: Updates of the whole run.
        optim: Schedule, warm-up and smallest rate.

    Returns:
        A factor from 0 to 1: rising linearly from 0 during warm-up, then falling to
        `min_learning_rate / learning_rate`.
    """
    warmup = length(optim.warmup_steps, total)
    if step < warmup:
        return step / warmup
    lowest = optim.min_learning_rate / optim.learning_rate if optim.learning_rate else 0.0
    return lowest + (1.0 - lowest) * _after_warmup(step, total, warmup, optim)


def length(steps: float, total: int) -> int:
    """A number of steps from a setting: a share of `total` (rounded up) below 1, else a count."""
    return math.ceil(steps * total) if steps < 1 else int(steps)


def decaying(optim: OptimConfig) -> bool:
    """Whether the rates of steps already taken depend on the total number of steps.

    Such a run can't be given another length on resume: no uninterrupted run would equal it.
    """
    return optim.lr_scheduler_type != "constant" or 0 < optim.warmup_steps < 1


def _after_warmup(step: int, total: int, warmup: int, optim: OptimConfig) -> float:
    """The curve from 1 to 0, without the smallest rate."""
    kind = optim.lr_scheduler_type
    if kind == "constant":
        return 1.0
    begin = warmup
    if kind == "wsd":
        begin = max(warmup, total - length(optim.decay_steps, total))
    progress = min(max(step - begin, 0) / max(1, total - begin), 1.0)
    if kind == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * progress))
    return 1.0 - progress
