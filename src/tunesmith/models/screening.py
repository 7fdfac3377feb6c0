"""Which words can be the best one: a small copy of the output layer, with a bound on its error.

The output layer is read whole to keep one word a token; for small models with large vocabularies
that is half of all reading. A copy takes a quarter of it (8 bits, for one token) or half
(bfloat16, for several). Its scores are off by no more than a bound that is known for every word,
so the words whose scores come within their bounds of the highest are few, they hold the best one
for certain, and they alone are multiplied in full. Greedy answers stay exactly what they were
(ADR 0022).

With w = ŵ + e the row of a word, ŵ its copy, x the state and x̂ its bfloat16:

    |w·x − fl(ŵ·x̂)| ≤ ‖e‖‖x‖ + ‖ŵ‖‖x − x̂‖ + rounding ≤ ‖x‖ · (‖e‖ + ‖ŵ‖ (3·2⁻⁹ + I·2⁻²⁴))

by Cauchy and Schwarz; x̂ and the product's bfloat16 result are rounded by 2⁻⁹ each, its sum over
`I` inputs in float32 by less than I·2⁻²⁴, and the third 2⁻⁹ is there to spare.

Legend: `S` states, `I` inputs, `V` words, `C` some of the words.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tunesmith import platform
from tunesmith.losses.products import packed_linear
from tunesmith.models import pages

MOST = 1024
"""Candidates of a state from which on the whole layer is multiplied instead."""
CHUNK = 4096
"""Words that are copied at a time: what that takes in memory besides."""
TRIALS = 5


class Screen:
    """Finds the words that can be the best one.

    Args:
        about: Scores of all words from states in bfloat16, (S, I) → (S, V).
        bound_V: What they are off by at most, over the length of a state.
        weight_IV: The output layer in float32, inputs as rows; held, not copied.
        bias_V: What is added to its products, or None.
    """

    def __init__(
        self,
        about: Callable[[Tensor], Tensor],
        bound_V: Tensor,
        weight_IV: Tensor,
        bias_V: Tensor | None = None,
    ):
        self._about, self.bound_V, self.weight_IV = about, bound_V.numpy(), weight_IV.numpy()
        self.widest = float(bound_V.max())
        self.bias_V = None if bias_V is None else bias_V.numpy()

    def about(self, x_SI: Tensor) -> Any:
        """Scores of all words, each off by at most `bound_V` times the length of x, (S, V)."""
        about_SV = self._about(x_SI.bfloat16()).float().numpy()
        return about_SV if self.bias_V is None else np.add(about_SV, self.bias_V, out=about_SV)

    def __call__(self, x_SI: Tensor) -> list[tuple[Any, Any]] | None:
        """For each state (words in ascending order, their exact scores), the best among them.

        None: the whole layer must be asked, because too many words may be the best, or a state
        is not finite.

        Args:
            x_SI: States, float32.
        """
        found = []
        for x_I, about_V in zip(x_SI.numpy(), self.about(x_SI), strict=True):
            length = float(np.sqrt(x_I.dot(x_I)))
            peak = int(about_V.argmax())
            floor = float(about_V[peak]) - length * float(self.bound_V[peak])
            # the widest bound first: one comparison a word
            words = np.flatnonzero(about_V >= floor - length * self.widest)
            words = words[about_V[words] + self.bound_V[words] * length >= floor]
            if not np.isfinite(floor) or len(words) > MOST:
                return None
            scores = x_I @ self.weight_IV[:, words]
            found.append((words, scores if self.bias_V is None else scores + self.bias_V[words]))
        return found


def eight_bits(weight_IV: Tensor, bias_V: Tensor | None = None) -> Screen:
    """A screen for one state at a time.

    Raises:
        RuntimeError: torch has no product of these types on this machine.
    """
    parts = [_eighth(part_IC.t()) for part_IC in weight_IV.split(CHUNK, dim=1)]
    copies, scales, bounds = zip(*parts, strict=True)
    copy_VI, scale_V = torch.cat(copies), torch.cat(scales)

    def about(x_SI: Tensor) -> Tensor:
        return torch._weight_int8pack_mm(x_SI, copy_VI, scale_V)

    return Screen(about, torch.cat(bounds), weight_IV, bias_V)


def _eighth(weight_CI: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """8-bit copy of some words, its scales (bfloat16), and its bounds."""
    # rounded up, so that no weight falls out of the range of the copy
    scale_C = weight_CI.abs().amax(1).clamp(min=1e-30).mul((1 + 2.0**-7) / 127).bfloat16()
    wide_C1 = scale_C.float()[:, None]
    copy_CI = weight_CI.div(wide_C1).round_().to(torch.int8).contiguous()
    return copy_CI, scale_C, _bound(weight_CI, copy_CI.float().mul_(wide_C1))


def sixteen_bits(weight_IV: Tensor, bias_V: Tensor | None = None, rows: int = 16) -> Screen:
    """A screen for several states, where products in bfloat16 are fast.

    Raises:
        RuntimeError: torch has no product of these types on this machine.
    """
    copy_VI = weight_IV.t().bfloat16().contiguous()
    parts = zip(weight_IV.split(CHUNK, dim=1), copy_VI.split(CHUNK), strict=True)
    bound_V = torch.cat([_bound(part_IC.t(), copy_CI.float()) for part_IC, copy_CI in parts])
    packed = torch.ops.mkldnn._reorder_linear_weight(copy_VI, rows)
    pages.settle([packed])
    return Screen(lambda x_SI: packed_linear(x_SI, packed), bound_V, weight_IV, bias_V)


def _bound(weight_CI: Tensor, copy_CI: Tensor) -> Tensor:
    rounding = 3 * 2.0**-9 + weight_CI.shape[1] * 2.0**-24
    norm_C = copy_CI.norm(dim=1)
    return copy_CI.sub_(weight_CI).norm(dim=1).add_(norm_C, alpha=rounding).mul_(1.0001)


def for_one(weight_IV: Tensor, bias_V: Tensor | None = None) -> Screen | None:
    """What screens one state, or None where the whole layer takes less time."""
    x_1I = _state(weight_IV)
    return _kept(eight_bits, weight_IV, bias_V, x_1I, lambda: x_1I @ weight_IV)


def for_several(
    weight_IV: Tensor, bias_V: Tensor | None, whole: Callable[[Tensor], Tensor], rows: int = 16
) -> Screen | None:
    """What screens several states, or None where the whole layer takes less time.

    Args:
        weight_IV: The layer.
        bias_V: Its bias.
        whole: How the layer is computed otherwise.
        rows: States to try it with.
    """
    if platform.choose_dtype() != "bfloat16":  # slower here, or it would kill the process
        return None
    x_SI = _state(weight_IV).repeat(rows, 1)
    return _kept(sixteen_bits, weight_IV, bias_V, x_SI, lambda: whole(x_SI))


def _state(weight_IV: Tensor) -> Tensor:
    return torch.arange(len(weight_IV), dtype=torch.float32).sin()[None]


def _kept(
    make: Callable[[Tensor, Tensor | None], Screen],
    weight_IV: Tensor,
    bias_V: Tensor | None,
    x_SI: Tensor,
    whole: Callable[[], Tensor],
) -> Screen | None:
    """A screen, if its product keeps the promise here and takes less time than the layer."""
    theirs, ours = [], []
    try:
        found = make(weight_IV, bias_V)
        for _ in range(TRIALS):
            begin = time.perf_counter()
            whole()
            middle = time.perf_counter()
            found(x_SI)
            theirs.append(middle - begin)
            ours.append(time.perf_counter() - middle)
        about_SV = found.about(x_SI)
    except (RuntimeError, AttributeError):  # older torch, or no product for this machine
        return None
    exact_SV = (x_SI @ weight_IV).numpy()
    exact_SV = exact_SV if found.bias_V is None else exact_SV + found.bias_V
    kept = np.abs(about_SV - exact_SV) <= found.bound_V * float(x_SI[0].norm())
    return found if bool(kept.all()) and min(ours) < min(theirs) else None
