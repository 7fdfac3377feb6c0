"""What a run says while it works; the terminal and the web show it, a library call stays silent."""

from __future__ import annotations

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
