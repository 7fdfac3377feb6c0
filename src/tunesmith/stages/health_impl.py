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
ALIKE = 0.999
"""Share of answers rewarded as all others are, from which on nothing is learned."""
AGAIN = 50
"""Looks after which a line that is still crossed is said again, unless it doubled before."""


@dataclass
class Health:
    """Watches rounds and updates; tells each crossed line, again when it has doubled and every
    `AGAIN` looks, and at the end when it was crossed."""

    act: Literal["warn", "stop"]
    kl_limit: float
    """KL of an answer to its reference, in nats."""
    say: Callable[[str], None]
    first_length: float | None = None
    """Mean length of the first round's answers."""
    record: Callable[..., None] | None = None
    """Keeps what is told: (kind, step=, line=, text=)."""
    history: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Of each line that was ever crossed: name, first and last step, whether it still is. JSON."""
    _seen: list[tuple[Any, ...]] = field(default_factory=list)
    _told: dict[str, tuple[float, int]] = field(default_factory=dict)
    """How bad a line was when it was last told, and how often it was looked at since."""

    def round(self, step: int, length: float, kl: float | None, explained: float | None) -> None:
        """Looks at a round that was just sampled.

        Raises:
            RunError: R245, a line is crossed and the recipe says stop.
        """
        self.first_length = self.first_length or length
        drift = max(length / self.first_length, self.first_length / length)
        if kl is not None:
            text = f"KL to the reference is {kl:.1f} nats an answer (line {self.kl_limit:g})"
            self._judge(step, "kl", kl, self.kl_limit, text)
        text = f"answers are {length:.0f} tokens long, {self.first_length:.0f} at first"
        self._judge(step, "length", drift, DRIFT, text)
        if explained is not None:
            text = f"the critic explains {explained:.2f} of the returns' variance"
            self._judge(step, "critic", -explained, -EXPLAINED, text)

    def idle(self, step: int, alike: float) -> None:
        """Looks at the rewards of a round; it is said, never a reason to stop.

        Args:
            step: Updates done.
            alike: Share of groups (of answers, without groups) whose rewards are all the same.
        """
        text = "all answers were rewarded alike, so there is nothing to learn from"
        self._judge(step, "alike", alike, ALIKE, text, stops=False)

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
        self._judge(step, "ratio", ratio, RATIO, text)
        text = f"{share:.0%} of the tokens were clipped"
        self._judge(step, "clip", share, CLIP_SHARE, text)

    def remarks(self) -> list[str]:
        """What is to be said at the end: each line that was crossed, and when."""
        found = []
        for line, one in self.history.items():
            first, last = one["first"], one["last"]
            when = f"from step {first} on" if one["beyond"] else f"from step {first} to {last}"
            found.append(f"{self._named(line)} {when}")
        return found

    def _named(self, line: str) -> str:
        return {
            "kl": f"KL went beyond its line of {self.kl_limit:g} nats",
            "length": f"answers grew or shrank beyond {DRIFT:g} times their first length",
            "critic": f"the critic's explained variance fell below {EXPLAINED:g}",
            "ratio": f"the mean ratio to the sampling policy went beyond {RATIO:g}",
            "alike": "all answers of a round were rewarded alike",
            "clip": f"the share of clipped tokens went beyond {CLIP_SHARE:.0%}",
        }[line]

    def _judge(
        self, step: int, line: str, value: float, limit: float, text: str, *, stops: bool = True
    ) -> None:
        if value <= limit:
            self._told.pop(line, None)
            if line in self.history:
                self.history[line]["beyond"] = False
            return
        self.history.setdefault(line, {"first": step})
        self.history[line] |= {"last": step, "beyond": True}
        told, looks = self._told.get(line, (0.0, 0))
        due = line not in self._told or value >= 2 * told or looks + 1 >= AGAIN
        self._told[line] = (value, 0) if due else (told, looks + 1)
        if due and self.record is not None:
            self.record("red line", step=step, line=line, text=text)
        if self.act == "stop" and stops:
            raise RunError(
                "R245",
                f"step {step}: {text}",
                where="stage.on_health",
                why="The last checkpoint is from before this round, or within it.",
                fix="lower optim.learning_rate or raise the KL's weight; on_health=warn goes on",
            )
        if due:
            self.say(f"step {step}: {text}")
