"""Columns of rounds: values of answers and tokens, at the positions of any layout, and as metrics.

Legend: `P` prompts, `G` answers to each, `A` tokens of the longest answer, `S` supervised
positions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tunesmith.errors import ConfigError
from tunesmith.types import Term

if TYPE_CHECKING:
    from torch import Tensor

    from tunesmith.rewards.base import Answer, Scores
    from tunesmith.types import Batch, TokenLogprobs


def example_of(tokens: TokenLogprobs, batch: Batch) -> Tensor:
    """The answer that each supervised position belongs to, shape (S,)."""
    owner_G = batch.extra.get("example")
    return tokens.segment_S if owner_G is None else owner_G[tokens.segment_S]


def place_in(example_S: Tensor) -> Tensor:
    """Index of each supervised position within its own answer, shape (S,)."""
    import torch

    first_S = torch.searchsorted(example_S, example_S)
    return torch.arange(len(example_S), device=example_S.device) - first_S


def on_tokens(batch: Batch, name: str, example_S: Tensor, like: Tensor) -> Tensor:
    """A column at the supervised positions: a value of the answer, or of the token; shape (S,)."""
    values = batch.extra[name]
    if values.dim() == 2:
        return values.flatten()[example_S].to(like.dtype)
    return values.flatten(0, 1)[example_S, place_in(example_S)].to(like.dtype)


def answer_metrics(batch: Batch, prefix: str = "rewards/") -> dict[str, Term]:
    """Columns of answers as metrics: means over a prompt's answers, summed over prompts."""
    names = (
        "reward",
        "completion_length",
        "cut_share",
        "answer_kl",
        "kl_coef",
        "reward_std",
        "explained_variance",
    )
    found = {
        name: Term(values.double().mean(1).sum(), "rows")
        for name, values in batch.extra.items()
        if name in names or name.startswith(prefix)
    }
    if "reward" in found and batch.extra["reward"].shape[1] > 1:
        spread_P = batch.extra["reward"].double().std(1)
        found["reward_std"] = Term(spread_P.sum(), "rows")
        found["groups_alike"] = Term((spread_P == 0).double().sum(), "rows")
    return found


def within(name: str, value: float, good: bool, wanted: str) -> None:
    """Refuses a number of the stage that makes no sense.

    Raises:
        ConfigError: C227.
    """
    if not good:
        raise ConfigError(
            "C227", f"{name} is {value}", where=f"stage.{name}", fix=f"{name}: {wanted}"
        )


def columns_of(answers: list[Answer], scores: Scores, shape: tuple[int, int]) -> dict:
    """Columns (P, G) of rewards, and of what is logged of answers."""
    lay = lambda values: np.asarray(values, np.float32).reshape(shape)
    return {
        "reward": lay(scores.total_N),
        "completion_length": lay([one.tokens for one in answers]),
        "cut_share": lay([not one.finished for one in answers]),
        **{f"rewards/{name}": lay(values_N) for name, values_N in scores.each.items()},
    }
