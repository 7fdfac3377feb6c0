"""Log-probabilities of preference data under the reference: the model before its first update.

They are computed once, before training and before a resumed run takes its weights back, and kept
by content: data, weights, and everything that shapes the arithmetic. So no second copy of the
model is held, and a second run over the same pairs finds them made.

Rows are computed in fixed groups of neighbours, whatever rows are asked for: the bits of a value
never depend on which others were needed with it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tunesmith import platform
from tunesmith.data.collate import collate_items
from tunesmith.stages import pairs_impl
from tunesmith.tuners.base import VirtualTokens

GROUP_TOKENS = 4096
"""A group of rows ends at so many tokens."""
Say = Callable[[str], None]


def attach(run: Any, say: Say) -> None:
    """Gives the run's loaders a column `reference`: float64, shape (rows, examples of a row)."""
    steps = range(run.total_steps)
    needed = np.unique([row for step in steps for row in run.loader.row_ids(step)])
    if len(needed):  # no steps, where a run is only evaluated
        run.loader = run.loader.with_column("reference", _values(run, run.loader, needed, say))
    if run.eval_loader is not None:
        every = np.arange(len(run.eval_loader.dataset))
        values_NE = _values(run, run.eval_loader, every, say)
        run.eval_loader = run.eval_loader.with_column("reference", values_NE)


def _values(run: Any, loader: Any, needed: np.ndarray, say: Say) -> np.ndarray:
    dataset = loader.dataset
    key = _key(run, dataset)
    path = platform.home() / "reference" / key[:2] / f"{key}.npy"
    values_NE = _read(path, len(dataset))
    missing = np.zeros(len(dataset), bool)
    missing[needed] = np.isnan(values_NE[needed]).any(axis=1)
    if not missing.any():
        say(f"{len(needed):,} reference log-probabilities are known from an earlier run")
        return values_NE
    say(f"computing reference log-probabilities of {int(missing.sum()):,} rows")
    training = run.model.training
    run.model.eval()
    with torch.no_grad(), _as_before(run):
        for rows in _groups(dataset.lengths):
            if missing[rows].any():
                values_NE[rows] = _forward(run, [dataset[row] for row in rows], loader)
    run.model.train(training)
    _write(path, values_NE)
    return values_NE


def _as_before(run: Any) -> AbstractContextManager[None]:
    """Within it the model is what it was without what this run trains.

    Weights and LoRA begin as nothing; virtual tokens are drawn, and change the model at once.
    """
    drawn = isinstance(run.tuner, VirtualTokens)
    return run.tuner.reference(run.model) if drawn else nullcontext()


def _forward(run: Any, items: list[Any], loader: Any) -> np.ndarray:
    layout = {"padded": loader.padded, "share_prompts": loader.share_prompts}
    batch = collate_items(items, **layout).to(run.device)
    tokens = run.model(batch)
    tokens = tokens._replace(weights_S=tokens.weights_S.abs())  # a sign is a verdict
    return pairs_impl.summed(tokens, batch).cpu().numpy().reshape(len(items), -1)


def _groups(lengths_N: np.ndarray) -> Iterator[np.ndarray]:
    """Neighbouring rows of about `GROUP_TOKENS` tokens."""
    group = np.cumsum(lengths_N, dtype=np.int64) // GROUP_TOKENS
    borders = np.flatnonzero(np.diff(group)) + 1
    yield from np.split(np.arange(len(lengths_N)), borders)


def _key(run: Any, dataset: Any) -> str:
    digest = hashlib.sha256()
    for row in range(len(dataset)):
        for example in dataset[row]:
            digest.update(len(example.ids_T).to_bytes(4, "little"))
            digest.update(example.ids_T.tobytes())
            digest.update(example.weights_T.tobytes())
    model = asdict(run.recipe.model)
    facts = {
        "base": run.base_hash,
        # how its numbers are read; where it lies and what reads them fastest change nothing
        "model": {name: model[name] for name in ("revision", "rope_scaling", "quantize")},
        "seed": run.recipe.train.seed,  # of weights that the base does not have
        "resolved": run.directory.info().get("resolved"),
        "dtype": run.recipe.model.dtype,
        "torch": platform.torch_version(),
        "code": _code_hash(),
    }
    digest.update(json.dumps(facts, sort_keys=True).encode())
    return digest.hexdigest()


def _code_hash() -> str:
    """Of the source files that make an answer's log-probability out of a batch."""
    top = Path(__file__).parents[1]
    files = sorted(
        p for folder in ("models", "losses", "tuners") for p in (top / folder).glob("*.py")
    )
    digest = hashlib.sha256()
    for path in [*files, Path(__file__), Path(pairs_impl.__file__)]:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _read(path: Path, rows: int) -> np.ndarray:
    """What is known; NaN is not known. A damaged file is made anew."""
    try:
        found = np.load(path, allow_pickle=False)
        if found.shape == (rows, 2) and found.dtype == np.float64:
            return found
    except (OSError, ValueError, EOFError):
        pass
    return np.full((rows, 2), np.nan)


def _write(path: Path, values_NE: np.ndarray) -> None:
    """A cache: not being able to write is no failure."""
    aside = path.with_name(f".{path.stem}.{os.getpid()}.npy")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(aside, values_NE)
        aside.replace(path)
    except OSError:
        aside.unlink(missing_ok=True)
