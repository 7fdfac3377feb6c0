"""Megatron's weighted blends, `0.3 PREFIX 0.7 PREFIX`, as a mixture of sources.

The weights are shares of the tokens. A mixture draws documents (or blocks of them), which are of
other lengths in every corpus: chances are weights divided by the mean length of what is drawn.
"""

from __future__ import annotations

import glob
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tunesmith.data import corpus
from tunesmith.errors import DataError

CACHES = ("{}*_indexmap_*.npy", "index-cache/*_idx.npy")
"""Orders that Megatron drew and kept beside a corpus, PREFIX in the place of {}."""


class Part(NamedTuple):
    """One corpus of a blend."""

    weight: float
    prefix: str


def parts(text: str) -> list[Part]:
    """The corpora of a blend; none if the text is something else (a path, a name).

    Raises:
        DataError: D217, a weight that is none, or a prefix without a corpus.
    """
    words = text.split()
    weights = [_number(word) for word in words[::2]]
    if len(words) < 2 or weights[0] is None or Path(text).expanduser().exists():
        return []
    if len(words) % 2 or any(weight is None or not 0 < weight < float("inf") for weight in weights):
        what = f"`{text}` is no blend: a weight above 0 before each prefix"
        raise DataError("D217", what, where="data.train", fix="write: 0.3 PREFIX_A 0.7 PREFIX_B")
    found = [Part(weight or 0.0, name) for weight, name in zip(weights, words[1::2], strict=True)]
    for part in found:
        if len(corpus.prefixes(Path(part.prefix).expanduser())) != 1:
            what = "no corpus has this prefix"
            fix = "name PREFIX of PREFIX_ids.npy and PREFIX_idx.npz, or of PREFIX.bin and .idx"
            raise DataError("D217", what, where=part.prefix, fix=fix)
    return found


def _number(word: str) -> float | None:
    try:
        return float(word)
    except ValueError:
        return None


def chances(found: list[Part], max_length: int, *, whole_documents: bool) -> list[float]:
    """The chance of each corpus to be drawn from, so that its tokens have its weight; sum 1.

    Args:
        found: Corpora with their weights.
        max_length: Tokens of a block, where blocks of documents are drawn.
        whole_documents: Documents are drawn (`packing: blocks`).

    Raises:
        DataError: D212, a corpus is damaged; D217, it holds no document.
    """
    raw = []
    for part in found:
        (prefix,) = corpus.prefixes(Path(part.prefix).expanduser())
        length_D = corpus.open_corpus(prefix).length_D
        length_D = length_D[length_D > 1]  # shorter ones have nothing to predict
        if not len(length_D):
            what = "the corpus holds no document"
            raise DataError("D217", what, where=part.prefix, fix="leave it out of the blend")
        drawn_D = (
            np.ones_like(length_D) if whole_documents else -(-(length_D - 1) // (max_length - 1))
        )
        raw.append(part.weight * float(drawn_D.sum()) / float(length_D.sum()))
    return [one / sum(raw) for one in raw]


def caches(prefix: Path) -> list[Path]:
    """Megatron's index caches beside a corpus; tunesmith draws its own order and reads none."""
    name = glob.escape(prefix.name)
    return sorted(file for one in CACHES for file in prefix.parent.glob(one.format(name)))
