"""The loop: ask the stage for steps, sum the losses, divide once, step. Everything it always does
is visible here; there are no callbacks."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

from tunesmith.types import Batch, Loss, Step

if TYPE_CHECKING:
    from tunesmith.training.run import TrainingRun


def fit(run: TrainingRun) -> None:
    """Trains until `run.finished`: total steps are done, or a stop was asked for.

    Raises:
        RunError: R201, a gradient norm is not finite (fp32, bf16); R210, twenty in a row (fp16).
    """
    run.model.train()
    for step in run.stage.steps(run):
        units = run.parallel.sum(total_units(step))  # one collective for all micro-batches
        run.set_learning_rate()
        for micro, last, batch in mark_last(step):
            torch.manual_seed(seed_for(run, "forward", micro))
            with run.parallel.accumulate(run.model, last):
                loss = run.stage.loss(run.model, batch.to(run.device))
                run.parallel.backward(total(loss, units) * run.scale.value)
            run.log.add(loss, batch)
        norm = run.clip()
        if norm.isfinite():
            run.parallel.step(run.optimizer)
            run.scale.update(finite=True)
            run.log.end_step(units, norm)
        else:
            run.on_non_finite(norm)  # raises, but in fp16: no update, half the scale
        run.optimizer.zero_grad(set_to_none=True)
        run.step += 1
        run.emit_if_due()
        run.evaluate_if_due()
        run.save_if_due()
        if run.finished:
            return


def total_units(step: Step) -> dict[str, float]:
    """Units of all micro-batches of this rank, summed."""
    units: dict[str, float] = {}
    for batch in step:
        for name, count in batch.units.items():
            units[name] = units.get(name, 0.0) + count
    return units


def total(loss: Loss, units: dict[str, float]) -> torch.Tensor:
    """Σ coef · sum / global units: this micro-batch's share of the step's loss."""
    return torch.stack(
        [term.coef * term.sum / (units[term.unit] or 1.0) for term in loss.terms.values()]
    ).sum()


def mark_last(step: Step) -> Iterator[tuple[int, bool, Batch]]:
    """(index, is it the last, batch) of each micro-batch."""
    for micro, batch in enumerate(step):
        yield micro, micro == len(step) - 1, batch


def seed_for(run: TrainingRun, purpose: str, micro: int) -> int:
    """The seed of one draw: a function of (seed, purpose, step, micro, rank), so that nothing about
    randomness needs saving and evaluation can't leak into training."""
    key = f"{run.recipe.train.seed}/{purpose}/{run.step}/{micro}/{run.parallel.rank}"
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=7).digest(), "big")
