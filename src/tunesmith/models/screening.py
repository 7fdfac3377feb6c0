"""Which words can be the best one: an 8-bit copy of the output layer, with a bound on its error.

At one token a step the output layer is read whole to keep one word of it; for small models with
large vocabularies that is half of all reading. The copy takes a quarter of it. Its scores are off
by no more than a bound that is known for every word, so the words whose scores come within their
bounds of the highest are few, they hold the best one for certain, and they alone are multiplied in
full. Greedy answers stay exactly what they were (ADR 0022).

With w = ŵ + e the row of a word, ŵ its 8-bit copy, x the state and x̂ its bfloat16:

    |w·x − fl(ŵ·x̂)| ≤ ‖e‖‖x‖ + ‖ŵ‖‖x − x̂‖ + rounding ≤ ‖x‖ · (‖e‖ + ‖ŵ‖ (3·2⁻⁹ + I·2⁻²⁴))

by Cauchy and Schwarz; x̂ and the product's bfloat16 result are rounded by 2⁻⁹ each, its sum over
`I` inputs in float32 by less than I·2⁻²⁴, and the third 2⁻⁹ is there to spare.

Legend: `I` inputs, `V` words.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from torch import Tensor

MOST = 1024
"""Candidates from which on the whole layer is multiplied instead."""
CHUNK = 4096
"""Words that are copied at a time: what that takes in memory besides."""
TRIALS = 5


class Screen:
    """Finds the words that can be the best one.

    Args:
        weight_IV: The output layer in float32, inputs as rows; held, not copied.
        bias_V: What is added to its products, or None.

    Raises:
        RuntimeError: torch has no product of these types on this machine.
    """

    def __init__(self, weight_IV: Tensor, bias_V: Tensor | None = None):
        parts = [_copied(part_IC.t()) for part_IC in weight_IV.split(CHUNK, dim=1)]
        copies, scales, bounds = zip(*parts, strict=True)
        self.copy_VI, self.scale_V = torch.cat(copies), torch.cat(scales)
        self.bound_V = torch.cat(bounds).numpy()
        self.weight_IV = weight_IV.numpy()
        self.bias_V = None if bias_V is None else bias_V.numpy()
        self._upper_V = np.empty_like(self.bound_V)

    def about(self, x_1I: Tensor) -> Any:
        """Scores of all words, each off by at most `bound_V` times the length of x, shape (V,)."""
        about_1V = torch._weight_int8pack_mm(x_1I.bfloat16(), self.copy_VI, self.scale_V)
        about_V = about_1V[0].float().numpy()
        return about_V if self.bias_V is None else np.add(about_V, self.bias_V, out=about_V)

    def __call__(self, x_1I: Tensor) -> tuple[Any, Any] | None:
        """(words in ascending order, their exact scores), the best word among them.

        None: the whole layer must be asked, because too many words may be the best, or the
        state is not finite.

        Args:
            x_1I: The state, float32, shape (1, I).
        """
        about_V = self.about(x_1I)
        x_I = x_1I[0].numpy()
        length = float(np.sqrt(x_I.dot(x_I)))
        peak = int(about_V.argmax())
        floor = about_V[peak] - length * self.bound_V[peak]
        if not np.isfinite(floor):
            return None
        upper_V = np.multiply(self.bound_V, length, out=self._upper_V)
        np.add(upper_V, about_V, out=upper_V)
        words = np.flatnonzero(upper_V >= floor)
        if len(words) > MOST:
            return None
        scores = x_I @ self.weight_IV[:, words]
        return words, scores if self.bias_V is None else scores + self.bias_V[words]


def _copied(weight_CI: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """8-bit copy of some words, its scales (bfloat16), and what its scores are off by at most."""
    # rounded up, so that no weight falls out of the range of the copy
    scale_C = weight_CI.abs().amax(1).clamp(min=1e-30).mul((1 + 2.0**-7) / 127).bfloat16()
    wide_C1 = scale_C.float()[:, None]
    copy_CI = weight_CI.div(wide_C1).round_().to(torch.int8).contiguous()
    about_CI = copy_CI.float().mul_(wide_C1)
    norm_C = about_CI.norm(dim=1)
    lost_C = about_CI.sub_(weight_CI).norm(dim=1)
    rounding = 3 * 2.0**-9 + weight_CI.shape[1] * 2.0**-24
    return copy_CI, scale_C, lost_C.add_(norm_C, alpha=rounding).mul_(1.0001)


def screen(weight_IV: Tensor, bias_V: Tensor | None = None) -> Screen | None:
    """A screen, where torch's product keeps its promise and takes less time than the layer."""
    x_1I = torch.arange(len(weight_IV), dtype=torch.float32).sin()[None]
    whole, ours = [], []
    try:
        found = Screen(weight_IV, bias_V)
        for _ in range(TRIALS):
            begin = time.perf_counter()
            exact_1V = x_1I @ weight_IV
            middle = time.perf_counter()
            found(x_1I)
            whole.append(middle - begin)
            ours.append(time.perf_counter() - middle)
        about_V = found.about(x_1I)
    except (RuntimeError, AttributeError):  # older torch, or no product for this machine
        return None
    exact_V = exact_1V[0].numpy() if bias_V is None else (exact_1V[0] + bias_V).numpy()
    kept = np.abs(about_V - exact_V) <= found.bound_V * float(x_1I.norm())
    return found if bool(kept.all()) and min(ours) < min(whole) else None
