"""Answers without an end: first tokens and last ones are kept, what is between is forgotten.

The first tokens are what attention falls back on when it has nothing to look at, so they stay
(arXiv:2309.17453, section 3.2). Positions are those within the cache. When it is full, an eighth of
the window goes at once, and the keys behind it are turned back by as many positions: so a key is
turned at most eight times, and what is forgotten depends on the number of tokens alone, not on
what else is in work.

Legend: `K` key heads, `n` tokens kept, `E` width of a head.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tunesmith.errors import ConfigError
from tunesmith.generation.lanes_impl import Place
from tunesmith.models.decoding import serves
from tunesmith.models.kernels import window_of

FIRST = 4
"""Tokens that are enough to fall back on (section 3.2)."""
PARTS = 8
"""So many times is a window forgotten piece by piece."""


class Sinks:
    """What a row of the cache may hold, and how it forgets.

    Args:
        hf: The model.
        sinks: First tokens that stay.
        window: Last tokens that are kept beside them, at most.
        context: Tokens the model's positions reach; None: no limit.
        cache_tokens: Tokens the cache holds.

    Raises:
        ConfigError: G160, they make no cache, or one that is longer than the model or the engine
            reaches; G161, the family's keys can't be turned to other positions.
    """

    def __init__(self, hf: Any, sinks: int, window: int, *, context: int | None, cache_tokens: int):
        self.sinks, self.size = sinks, sinks + window
        self.dropped = max(1, window // PARTS)
        """Tokens that are forgotten at once."""
        if sinks < 0 or window < 1:
            what = f"{sinks} sinks and a window of {window} make no cache"
            raise ConfigError("G160", what, where="window", fix="sinks >= 0 and window >= 1")
        least = min(context or self.size, cache_tokens or self.size)
        if self.size > least:
            raise ConfigError(
                "G160",
                f"{sinks} sinks and a window of {window:,} are {self.size:,} tokens",
                where="window",
                why=f"the model and its cache reach {least:,}",
                fix=f"window <= {max(least - sinks, 1):,}",
            )
        if why := _hindrance(hf):
            raise _immovable(hf, why)
        angles = hf.base_model.rotary_emb.inv_freq.detach().float() * self.dropped
        self._cos, self._sin = angles.cos(), angles.sin()

    @property
    def note(self) -> str:
        return (
            f"cache: the first {self.sinks} and the last {self.size - self.sinks:,} tokens of each "
            "request; what lies between them is forgotten"
        )

    def forget(self, place: Place) -> None:
        """Makes room in a full place: its oldest tokens behind the sinks go, the rest moves up."""
        begin, end = self.sinks, self.size - self.dropped
        behind = slice(self.sinks + self.dropped, self.size)
        for table in place.lane.tables():
            for held in table.values():
                kept_KnE = held[place.row, :, behind]
                turned = table is place.lane.keys
                held[place.row, :, begin:end] = self._back(kept_KnE) if turned else kept_KnE.clone()
        place.length = end

    def _back(self, keys_KnE: Tensor) -> Tensor:
        """Keys as they would be so many positions earlier."""
        low, high = keys_KnE.float().chunk(2, dim=-1)
        turned = [low * self._cos + high * self._sin, high * self._cos - low * self._sin]
        return torch.cat(turned, dim=-1).to(keys_KnE.dtype)


def refuse(hf: Any, window: Any) -> None:
    """What an engine without lanes says to a window.

    Raises:
        ConfigError: G161.
    """
    if window is not None:
        raise _immovable(hf, "it has no attention interface")


def _immovable(hf: Any, why: str) -> ConfigError:
    return ConfigError(
        "G161",
        f"{hf.config.model_type} can't forget what lies between its first and last tokens",
        where="window",
        why=why,
        fix="leave out the window: answers end at the model's context",
    )


def no_window() -> ConfigError:
    """G160: guesses, whose places are not turned back."""
    what = "an engine that guesses tokens can't forget any"
    return ConfigError("G160", what, where="window", fix="leave out speculate and draft")


def _hindrance(hf: Any) -> str:
    """Why a family's keys can't be moved; empty if they can."""
    if not serves(hf):
        return "its positions are not plain rotations that are the same at every length"
    layers = hf.base_model.get_submodule("layers")
    if any(window_of(layer.self_attn) is not None for layer in layers):
        return "its layers have a sliding window of their own, which hides the first tokens"
    return ""
