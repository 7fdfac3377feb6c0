"""A loader visited in rounds: some of its steps, several times over, before it goes on.

Reinforcement stages answer the prompts of a round at once and learn from the answers more than
once. An update is still a step; the rows of step n remain a function of n alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from tunesmith.data.loader import Loader


@dataclass(frozen=True)
class Rounds:
    """Round r visits the loader's steps r·width … (r + 1)·width − 1, `times` over."""

    loader: Loader
    width: int = 1
    times: int = 1

    @property
    def size(self) -> int:
        """Updates of a round."""
        return self.width * self.times

    @property
    def dataset(self) -> Any:
        return self.loader.dataset

    @property
    def layout(self) -> dict[str, bool]:
        """How batches are laid out."""
        return {"padded": self.loader.padded, "share_prompts": self.loader.share_prompts}

    def visited(self, step: int) -> int:
        """The loader's step that update `step` (from 0) is made of."""
        number, inner = divmod(step, self.size)
        return number * self.width + inner % self.width

    def micro_rows(self, number: int) -> list[list[list[int]]]:
        """Rows of this rank in round `number`, by step of the loader and micro-batch."""
        first = number * self.width
        return [self.loader.micro_rows(index) for index in range(first, first + self.width)]

    def row_ids(self, step: int) -> list[int]:
        return self.loader.row_ids(self.visited(step))

    def describe(self, step: int) -> list[str]:
        return self.loader.describe(self.visited(step))

    def total_steps(self, num_train_epochs: float, max_steps: int | None = None) -> int:
        """max_steps, or whole rounds that visit so many epochs."""
        if max_steps is not None:
            return max_steps
        steps = self.loader.total_steps(num_train_epochs)
        return math.ceil(steps / self.width) * self.size

    def epoch_of(self, step: int) -> float:
        """Epochs done when `step` updates are done."""
        number, inner = divmod(step, self.size)
        return self.loader.epoch_of(number * self.width + inner // self.times)

    def ends_epoch(self, step: int) -> bool:
        number, inner = divmod(step, self.size)
        if inner % self.times:
            return False
        return self.loader.ends_epoch(number * self.width + inner // self.times)
