"""How sampled answers are cut into forward passes, as `train.max_forward_tokens` says."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tunesmith.data.loader import Loader, cut
from tunesmith.types import Example

Item = tuple[Example, ...]
"""The answers to a prompt, each with its prompt."""


def passes(step: list[list[int]], items: Sequence[Item], loader: Loader) -> list[list[int]]:
    """The micro-batches of an update in parts of at most so many tokens (ADR 0016).

    A prompt with its answers is never cut. Ranks may come to other numbers of passes.

    Args:
        step: Items of each micro-batch.
        items: All items of the round.
        loader: Its limit and layout.
    """
    if loader.max_forward_tokens is None:
        return step
    parts: list[list[int]] = []
    for micro in step:
        lengths = [_tokens(items[place], loader) for place in micro]
        borders = cut(lengths, loader.max_forward_tokens, padded=loader.padded)
        parts += [micro[border] for border in borders]
    return parts


def _tokens(item: Item, loader: Loader) -> int:
    """Tokens that a pass computes of an item, padding and a shared prompt minded."""
    lengths = [len(example.ids_T) for example in item]
    if loader.padded:
        return max(lengths) * len(lengths)
    prompt = int(np.argmax(item[0].weights_T != 0)) if loader.share_prompts else 0
    return sum(lengths) - prompt * (len(item) - 1)
