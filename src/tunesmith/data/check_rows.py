"""Findings about rows compared with each other: copies, leaks, pairs without a difference."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from tunesmith.data.finding import Finding, Level, Markers, places
from tunesmith.data.prints import of_examples, of_items
from tunesmith.data.store import Dataset

MOST_COPIES = 0.5
"""Share of rows that are copies above which a data set is not what it seems."""
MOST_SEEN = 0.1
"""Share of evaluation tokens that are trained on above which their loss says nothing."""
MOST_EQUAL = 0.01
"""Share of pairs without a difference above which something went wrong in making them."""
BIAS = 0.75
"""Share of pairs in which the same side is longer, above which length is what will be learnt."""
FEWEST = 20
"""Rows or pairs below which a share of copies or of longer answers tells nothing."""


def duplicates(data: Dataset, prints: Sequence[bytes], markers: Markers) -> Finding:
    """Rows that stand twice. A few rows are there to try something with, and any text repeats some
    of its lines: both are worth a word, and no more."""
    trial = markers.documents or len(data) < FEWEST
    extra = _copies(prints)
    if not extra:
        return Finding("OK", "duplicates", "no row stands twice")
    level: Level = "MAJOR" if len(extra) > MOST_COPIES * len(data) and not trial else "MINOR"
    text = f"{len(extra):,} of {len(data):,} rows equal an earlier one"
    fix = "tunesmith data dedup FILE -o FEWER"
    said = f"{text} (tunesmith data dedup)"
    return Finding(level, "duplicates", said, places(data, extra), fix)


def _copies(prints: Sequence[bytes]) -> list[int]:
    """Items equal to an earlier one."""
    seen: Counter[bytes] = Counter()
    extra = []
    for index, one in enumerate(prints):
        if seen[one]:
            extra.append(index)
        seen[one] += 1
    return extra


def pairs(data: Dataset) -> tuple[Finding, Finding]:
    """What is amiss with chosen and rejected answers."""
    return _equal_sides(data), _length_bias(data)


def _equal_sides(data: Dataset) -> Finding:
    pairs = np.flatnonzero(data.count_N > 1)
    sides = ({of_examples([example]) for example in data[int(i)]} for i in pairs)
    equal = pairs[[len(prints) == 1 for prints in sides]] if len(pairs) else pairs
    if not len(equal):
        return Finding("OK", "pairs", "no chosen answer equals its rejected one")
    level: Level = "MAJOR" if len(equal) > MOST_EQUAL * len(pairs) else "MINOR"
    text = f"{len(equal):,} of {len(pairs):,} pairs have equal chosen and rejected answers"
    fix = "remove these pairs, which say nothing, and look how they were made"
    return Finding(level, "pairs", text, places(data, equal), fix)


def _length_bias(data: Dataset) -> Finding:
    """Whether the better answer is nearly always the longer one, or nearly always the shorter."""
    pairs = np.flatnonzero(data.count_N == 2)
    if len(pairs) < FEWEST:
        return Finding("OK", "length bias", "too few pairs to tell" if len(pairs) else "no pairs")
    sides = [[int(np.count_nonzero(e.weights_T)) for e in data[int(i)]] for i in pairs]
    chosen, rejected = np.array(sides).T
    longer, shorter = float(np.mean(chosen > rejected)), float(np.mean(chosen < rejected))
    text = (
        f"the chosen answer is longer in {longer:.0%} of the pairs, shorter in {shorter:.0%}"
        f" (mean {chosen.mean():.0f} and {rejected.mean():.0f} tokens)"
    )
    level: Level = "MINOR" if max(longer, shorter) > BIAS else "OK"
    return Finding(level, "length bias", text)


def overlap(prints: Sequence[bytes], evaluation: Dataset, markers: Markers) -> Finding:
    """Rows on both sides, by the tokens they hold: short lines that any text repeats weigh little,
    and in a corpus of them they are no leak."""
    trained = set(prints)
    held_out = of_items(evaluation, without=markers.measured)
    both = [i for i, one in enumerate(held_out) if one in trained]
    if not both:
        return Finding("OK", "evaluation", "no evaluation row is trained on")
    share = float(evaluation.trained[both].sum()) / max(float(evaluation.trained.sum()), 1.0)
    level: Level = "MAJOR" if share > MOST_SEEN and not markers.documents else "MINOR"
    text = f"{len(both):,} of {len(evaluation):,} evaluation rows are trained on"
    fix = "hold out rows by data.eval: {fraction: 0.05}, which keeps equal rows on one side; or"
    fix += " remove these from one of the files"
    return Finding(level, "evaluation", text, places(evaluation, both), fix)
