"""What a run reports: sums gathered over steps, divided once when they are written."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import psutil
import torch

from tunesmith.types import Batch, Loss

TIMED = ("tokens_per_second", "memory_gb", "elapsed_s", "eta_s")
"""Metric fields that differ between two runs of the same numbers."""


class Log:
    """Sums of loss and metric terms since the last metrics line.

    Values stay tensors until a line or a checkpoint needs them, so a step forces no device sync;
    they are then added one by one in float64, which makes a resumed sum equal bit for bit.
    """

    def __init__(self, *, elapsed_s: float = 0.0):
        self.sums: dict[str, float] = {}
        self.counts: dict[str, float] = {}
        self.tokens = 0
        self.grad_norm = 0.0
        self._pending: list[tuple[str, torch.Tensor]] = []
        self._unit_of: dict[str, str] = {}
        self._coefs: dict[str, float] = {}
        self._norm: torch.Tensor | None = None
        self._start = time.monotonic() - elapsed_s
        self._pace = Pace()

    def add(self, loss: Loss, batch: Batch) -> None:
        """Takes the terms and metrics of one micro-batch."""
        for name, term in {**loss.terms, **loss.metrics}.items():
            self._pending.append((name, term.sum.detach()))
            self._unit_of[name] = term.unit
        self._coefs |= {name: term.coef for name, term in loss.terms.items()}
        self.tokens += int(batch.segments.length_G.sum())

    def end_step(self, units: Mapping[str, float], norm: torch.Tensor) -> None:
        """Closes an update: its global units are the denominators of its terms."""
        for unit, count in units.items():
            self.counts[unit] = self.counts.get(unit, 0.0) + count
        self._norm = norm
        self._pace.end_step(self.tokens)

    def drop_step(self) -> None:
        """Forgets the terms of a step that was not taken (fp16 overflow)."""
        self._pending.clear()

    def flush(self, combine: Callable[[Mapping[str, float]], dict[str, float]]) -> dict[str, float]:
        """Means since the last flush, then starts anew.

        Args:
            combine: Sums a dict over ranks.
        """
        self._settle()
        sums = combine(self.sums)
        means = {
            name: value / (self.counts.get(self._unit_of[name], 0.0) or 1.0)
            for name, value in sums.items()
        }
        self.sums, self.counts = {}, {}
        return with_loss(means, self._coefs)

    def timing(self, steps_left: int, asides_left: Mapping[str, int]) -> dict[str, float | None]:
        """Tokens a second since the last line, memory, elapsed and estimated time left.

        Rate and time left are of training itself: without the first step of this process, which
        warms up, and without what is done aside; until a second step is done they are not known.

        Args:
            steps_left: Steps still to be done.
            asides_left: How often each thing is still to be done beside them (see `aside`).
        """
        rate = self._pace.rate(self.tokens)
        left = self._pace.left(steps_left, asides_left)
        values = (rate, memory_gb(), self.elapsed_s(), left)
        return {
            name: None if value is None else round(value, 3)
            for name, value in zip(TIMED, values, strict=True)
        }

    def elapsed_s(self) -> float:
        """Seconds of this run, those before it was resumed among them."""
        return time.monotonic() - self._start

    def aside(self, what: str) -> AbstractContextManager[None]:
        """Times an evaluation or a save, which is no part of a step."""
        return self._pace.aside(what)

    def state(self) -> dict[str, Any]:
        self._settle()
        return {
            "sums": self.sums,
            "counts": self.counts,
            "units": self._unit_of,
            "coefs": self._coefs,
            "tokens": self.tokens,
            "grad_norm": self.grad_norm,
            "elapsed_s": self.elapsed_s(),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.sums, self.counts = dict(state["sums"]), dict(state["counts"])
        self._unit_of, self.tokens = dict(state["units"]), state["tokens"]
        self._coefs = dict(state.get("coefs", {}))
        self.grad_norm = state["grad_norm"]
        self._start = time.monotonic() - state["elapsed_s"]

    def _settle(self) -> None:
        for name, value in self._pending:
            self.sums[name] = self.sums.get(name, 0.0) + float(value)
        self._pending.clear()
        if self._norm is not None:
            self.grad_norm, self._norm = float(self._norm), None


class Pace:
    """How fast steps go, and how long what is done between them takes."""

    def __init__(self) -> None:
        self._warm: float | None = None
        """When the first step of this process was done."""
        self._steps = 0
        """Steps since then."""
        self._window: tuple[float, int] | None = None
        self._aside: dict[str, tuple[int, float]] = {}
        self._shift = 0.0

    def end_step(self, tokens: int) -> None:
        """A step is done, and that many tokens in all."""
        if self._warm is None:
            self._warm, self._window = self._now(), (self._now(), tokens)
        else:
            self._steps += 1

    @contextmanager
    def aside(self, what: str) -> Iterator[None]:
        """Time in the block counts for `what`, not for steps."""
        start = time.monotonic()
        try:
            yield
        finally:
            taken = time.monotonic() - start
            times, total = self._aside.get(what, (0, 0.0))
            self._aside[what] = times + 1, total + taken
            self._shift += taken

    def rate(self, tokens: int) -> float | None:
        """Tokens a second of steps since it was last asked."""
        if self._window is None or tokens == self._window[1]:
            return None
        since, before = self._window
        self._window = (self._now(), tokens)
        return (tokens - before) / max(self._now() - since, 1e-9)

    def left(self, steps: int, asides: Mapping[str, int]) -> float | None:
        """Seconds until so many steps, evaluations and saves are done."""
        if steps == 0:
            each = 0.0
        elif self._warm is None or not self._steps:
            return None
        else:
            each = (self._now() - self._warm) / self._steps
        known = {name: total / times for name, (times, total) in self._aside.items()}
        return each * steps + sum(known.get(name, 0.0) * n for name, n in asides.items())

    def _now(self) -> float:
        """A clock that stands still while something is done aside."""
        return time.monotonic() - self._shift


def with_loss(means: dict[str, float], coefs: Mapping[str, float]) -> dict[str, float]:
    """The means led by `loss`, the sum of a stage's terms, where no single term is called so."""
    if "loss" in means or not coefs:
        return means
    # fsum: a checkpoint may give the terms back in another order
    return {"loss": math.fsum(coef * means[name] for name, coef in coefs.items()), **means}


def memory_gb() -> float:
    """Peak device memory on CUDA, else resident memory of this process, in GB (1e9 bytes)."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    return psutil.Process().memory_info().rss / 1e9
