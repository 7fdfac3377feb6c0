"""What a run reports: sums gathered over steps, divided once when they are written."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
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
        self._begun = time.monotonic()
        self._window = (self._begun, 0)

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

    def timing(self, step: int, total_steps: int, started_at: int) -> dict[str, float]:
        """Tokens a second since the last line, memory, elapsed and estimated time left."""
        now = time.monotonic()
        seconds = max(now - self._window[0], 1e-9)
        rate = (self.tokens - self._window[1]) / seconds
        self._window = (now, self.tokens)
        elapsed = now - self._start
        done = max(step - started_at, 1)
        eta = (now - self._begun) / done * (total_steps - step) if step > started_at else 0.0
        values = (rate, memory_gb(), elapsed, eta)
        return {name: round(value, 3) for name, value in zip(TIMED, values, strict=True)}

    def start_clock(self) -> None:
        """Marks the beginning of training proper, after loading."""
        self._begun = time.monotonic()
        self._window = (self._begun, self.tokens)

    def state(self) -> dict[str, Any]:
        self._settle()
        return {
            "sums": self.sums,
            "counts": self.counts,
            "units": self._unit_of,
            "coefs": self._coefs,
            "tokens": self.tokens,
            "grad_norm": self.grad_norm,
            "elapsed_s": time.monotonic() - self._start,
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
