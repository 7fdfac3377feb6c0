"""What the server counts, and Prometheus' text form of it (version 0.0.4)."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Histogram:
    """Cumulative counts of values, as Prometheus sums them up."""

    def __init__(self, bounds: tuple[float, ...] = SECONDS):
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def add(self, value: float) -> None:
        self.sum += value
        for at, bound in enumerate(self.bounds):
            if value <= bound:
                self.counts[at] += 1
                return
        self.counts[-1] += 1

    def lines(self, name: str) -> list[str]:
        total, found = 0, []
        for bound, count in zip((*self.bounds, "+Inf"), self.counts, strict=True):
            total += count
            found.append(f'{name}_bucket{{le="{bound}"}} {total}')
        return [*found, f"{name}_sum {self.sum:.6f}", f"{name}_count {total}"]


@dataclass
class Metrics:
    """Counters since the start. The engine's thread and the loop write different ones."""

    requests: Counter[tuple[str, int]] = field(default_factory=Counter)
    """By route and status; routes are our own names, never what a client wrote."""
    generated: int = 0
    prompt: int = 0
    cancelled: int = 0
    refused: int = 0
    first_token: Histogram = field(default_factory=Histogram)
    duration: Histogram = field(default_factory=Histogram)

    def token(self, submitted: float, first: float | None, now: float) -> None:
        """A token was generated for a request."""
        self.generated += 1
        if first is None:
            self.first_token.add(now - submitted)

    def text(self, held: int, limit: int) -> str:
        """The page that Prometheus reads."""
        rows: list[str] = []

        def plain(name: str, kind: str, help: str, value: float) -> None:
            rows.extend([f"# HELP {name} {help}", f"# TYPE {name} {kind}", f"{name} {value}"])

        plain("tunesmith_requests_in_hand", "gauge", "Requests answered or queued now.", held)
        plain("tunesmith_requests_limit", "gauge", "Most that may be in hand.", limit)
        plain("tunesmith_generated_tokens_total", "counter", "Tokens generated.", self.generated)
        plain("tunesmith_prompt_tokens_total", "counter", "Tokens of prompts.", self.prompt)
        plain("tunesmith_cancelled_total", "counter", "Answers nobody waited for.", self.cancelled)
        plain("tunesmith_refused_total", "counter", "Refused by a full queue.", self.refused)
        name = "tunesmith_http_requests_total"
        rows += [f"# HELP {name} Answers by route and status.", f"# TYPE {name} counter"]
        for (route, status), count in sorted(self.requests.items()):
            rows.append(f'{name}{{route="{route}",status="{status}"}} {count}')
        for name, help, histogram in (
            ("tunesmith_first_token_seconds", "From request to first token.", self.first_token),
            ("tunesmith_request_seconds", "From request to the end of the answer.", self.duration),
        ):
            rows += [f"# HELP {name} {help}", f"# TYPE {name} histogram", *histogram.lines(name)]
        return "\n".join(rows) + "\n"
