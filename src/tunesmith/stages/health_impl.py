"""Red lines of reinforcement: numbers that tell of a run leaving the rails before rewards do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from tunesmith.errors import RunError

CLIP_SHARE = 0.5
"""So large a share of clipped tokens means most of an update is thrown away."""
RATIO = 10.0
"""A mean ratio to the sampling policy above this is an update gone wrong; TRL's line, too."""
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
    _seen: list[tuple[Any, ...]] = field(default_factory=list)
    _told: set[str] = field(default_factory=set)

    def round(self, step: int, length: float, kl: float | None, explained: float | None) -> None:
        """Looks at a round that was just sampled.

        Raises:
            RunError: R245, a line is crossed and the recipe says stop.
        """
        self.first_length = self.first_length or length
        drift = max(length / self.first_length, self.first_length / length)
        if kl is not None:
            text = f"KL to the reference is {kl:.1f} nats an answer (line {self.kl_limit:g})"
            self._judge(step, "kl", kl > self.kl_limit, text)
        text = f"answers are {length:.0f} tokens long, {self.first_length:.0f} at first"
        self._judge(step, "length", drift > DRIFT, text)
        if explained is not None:
            text = f"the critic explains {explained:.2f} of the returns' variance"
            self._judge(step, "critic", explained < EXPLAINED, text)

    def see(self, sums: tuple[Any, ...]) -> None:
        """Takes (Σ ratio, Σ clipped, Σ 1) of one micro-batch; tensors until `update`."""
        self._seen.append(sums)

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
        text = f"the mean ratio to the sampling policy is {ratio:.1f}"
        self._judge(step, "ratio", ratio > RATIO, text)
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
