"""What a run says while it works; the terminal and the web show it, a library call stays silent."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


class Display:
    """Says nothing. Observers override what they show; none may change the run."""

    def header(self, stage: str) -> None:
        """Work on a recipe begins."""

    def line(self, topic: str, text: str) -> None:
        """One fact about the run: model, tuner, data, plan, a fallback taken."""

    def example(self, ids: list[int], weights: list[float], decode: Any) -> None:
        """The first example, with its mask, before step 1."""

    def metrics(self, line: dict[str, Any]) -> None:
        """One line of metrics.jsonl."""

    def done(self, summary: dict[str, Any]) -> None:
        """The run ended: state, eval losses, where it was saved."""


class Logged(Display):
    """Shows what another display shows, and keeps every line in the run's log.txt.

    What is said before there is a run directory is kept until there is one.
    """

    def __init__(self, inner: Display):
        self.inner = inner
        self._waiting: list[str] = []
        self._path: Path | None = None

    def into(self, path: Path) -> None:
        """Keeps lines in this file from now on, those said before first."""
        self._path = path
        waiting, self._waiting = self._waiting, []
        self._write("".join(waiting))

    def header(self, stage: str) -> None:
        self._keep("stage", stage)
        self.inner.header(stage)

    def line(self, topic: str, text: str) -> None:
        self._keep(topic, text)
        self.inner.line(topic, text)

    def example(self, ids: list[int], weights: list[float], decode: Any) -> None:
        self.inner.example(ids, weights, decode)

    def metrics(self, line: dict[str, Any]) -> None:
        self.inner.metrics(line)  # metrics.jsonl has them

    def done(self, summary: dict[str, Any]) -> None:
        self._keep(summary["state"], f"at step {summary['step']}")
        for remark in summary.get("remarks", ()):
            self._keep("health", remark)
        self.inner.done(summary)

    def _keep(self, topic: str, text: str) -> None:
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = f"{now} {topic:<7} {text}\n"
        if self._path is None:
            self._waiting.append(line)
        else:
            self._write(line)

    def _write(self, text: str) -> None:
        if self._path is None or not text:
            return
        with suppress(OSError), self._path.open("a", encoding="utf-8") as file:
            file.write(text)  # a full disk ends the run elsewhere, with an error of its own
