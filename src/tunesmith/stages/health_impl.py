"""Red lines of reinforcement: numbers that say a run is leaving the rails before its reward does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from tunesmith.errors import RunError

CLIP_SHARE = 0.5
"""So large a share of clipped tokens means most of an update is thrown away."""
RATIO = 10.0
"""A mean ratio to the sampling policy above this is an update gone wrong (TRL's PPO has the line)."""
DRIFT = 3.0
"""Answers three times as long, or as short, as those of the first round."""
EXPLAINED = -1.0
"""A critic worse than this adds more noise than it takes away."""


@dataclass
class Health:
    """Watches rounds and updates; tells each crossed line once, until it is well again."""

    act: Literal["warn", "stop"]
    kl_limit: float
    """KL of an answer to its reference, in nats."""
    say: Callable[[str], None]
    first_length: float | None = None
    """Mean length of the first round's answers."""
    _seen: list[tuple[Any, Any, Any]] = field(default_factory=list)
    _told: set[str] = field(default_factory=set)

    def round(self, step: int, length: float, kl: float | None, explained: float | None) -> None:
        """Looks at a round that was just sampled.

        Raises:
            RunError: R245, a line is crossed and the recipe says stop.
        """
        self.first_length = self.first_length or length
        drift = max(length / self.first_length, self.first_length / length)
        self._judge(step, "kl", kl is not None and kl > self.kl_limit,
                    f"KL to the reference is {kl or 0:.1f} nats an answer (line {self.kl_limit:g})")  # fmt: skip
        self._judge(step, "length", drift > DRIFT,
                    f"answers are {length:.0f} tokens long, {self.first_length:.0f} at first")  # fmt: skip
        self._judge(step, "critic", explained is not None and explained < EXPLAINED,
                    f"the critic explains {explained or 0:.2f} of the returns' variance")  # fmt: skip

    def see(self, ratios: Any, clipped: Any, count: Any) -> None:
        """Takes the sums of one micro-batch; they stay tensors until `update`."""
        self._seen.append((ratios, clipped, count))

    def update(self, step: int, combine: Callable[[dict[str, float]], dict[str, float]]) -> None:
        """Looks at an update that was just made.

        Args:
            step: Updates done.
            combine: Sums a dict over ranks.

        Raises:
            RunError: R245.
        """
        sums = [sum(float(one[at]) for one in self._seen) for at in range(3)]
        self._seen.clear()
        found = combine(dict(zip(("ratio", "clipped", "count"), sums, strict=True)))
        count = found["count"] or 1.0
        ratio, share = found["ratio"] / count, found["clipped"] / count
        self._judge(step, "ratio", ratio > RATIO, f"the mean ratio to the sampling policy is {ratio:.1f}")  # fmt: skip
        self._judge(step, "clip", share > CLIP_SHARE, f"{share:.0%} of the tokens were clipped")

    def _judge(self, step: int, line: str, crossed: bool, text: str) -> None:
        if not crossed:
            self._told.discard(line)
            return
        if self.act == "stop":
            raise RunError(
                "R245",
                f"step {step}: {text}",
                where="stage.on_health",
                why="The last checkpoint is from before this round, or within it.",
                fix="lower optim.learning_rate or raise the KL's weight; on_health=warn goes on",
            )
        if line not in self._told:
            self._told.add(line)
            self.say(f"step {step}: {text}")
