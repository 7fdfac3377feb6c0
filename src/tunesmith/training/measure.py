"""One evaluation: every batch of a loader through the stage's loss, the sums divided once.

The evaluations of a training and `tunesmith eval` are this one function.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from tunesmith.training.log import with_loss
from tunesmith.training.loop import total_units

if TYPE_CHECKING:
    from tunesmith.types import Loss, Run

Rows = dict[str, list[Any]]
"""Values of single rows (or examples) in the order of the data, by name."""
Units = dict[str, str]
"""What each metric was divided by."""


def measure(run: Run, loader: Any, rows: Rows | None = None) -> tuple[dict[str, float], Units]:
    """Means over all the data of a loader, and perplexity = exp(mean loss) where tokens are
    counted.

    Args:
        run: Whose stage and model; nothing of it is changed.
        loader: Evaluation data, as `compose.data.eval_loader` makes it.
        rows: Is filled with the values of single rows, of stages that have such.

    Returns:
        Metrics by name, and what each was divided by.
    """
    sums: dict[str, float] = {}
    counts: dict[str, float] = {}
    unit_of: Units = {}
    coefs: dict[str, float] = {}
    training = run.model.training
    run.model.eval()
    with torch.no_grad():
        for step in run.stage.evaluation_steps(run, loader):
            for unit, count in total_units(step).items():
                counts[unit] = counts.get(unit, 0.0) + count
            for batch in step:
                loss = run.stage.loss(run.model, batch.to(run.parallel.device))
                coefs |= {name: term.coef for name, term in loss.terms.items()}
                for name, term in {**loss.terms, **loss.metrics}.items():
                    sums[name] = sums.get(name, 0.0) + float(term.sum)
                    unit_of[name] = term.unit
                if rows is not None:
                    _add(rows, loss)
    run.model.train(training)
    sums, counts = run.parallel.sum(sums), run.parallel.sum(counts)
    means = with_loss({n: s / (counts[unit_of[n]] or 1.0) for n, s in sums.items()}, coefs)
    if unit_of.get("loss") == "tokens":
        means["perplexity"] = math.exp(min(means["loss"], 700.0))
    return means, unit_of


def _add(rows: Rows, loss: Loss) -> None:
    for name, values in (loss.rows() if loss.rows is not None else {}).items():
        plain = values.tolist() if isinstance(values, torch.Tensor) else list(values)
        rows.setdefault(name, []).extend(plain)


def standard_errors(rows: Rows, units: Mapping[str, str]) -> dict[str, float]:
    """Of metrics that are plain means over rows: deviation over N − 1, divided by √N."""
    found = {}
    for name, values in rows.items():
        if units.get(name) == "rows" and len(values) > 1:
            mean = math.fsum(values) / len(values)
            variance = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
            found[name] = math.sqrt(variance / len(values))
    return found
