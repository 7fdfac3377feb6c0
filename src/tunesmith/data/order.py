"""The order of rows: a pure function of (seed, epoch), the same on every machine and version.

A counter-based hash gives each row a key and the keys are sorted: unlike a generator of numpy
this is defined by a few lines of integer arithmetic and can't change under us.
"""

from __future__ import annotations

import hashlib

import numpy as np

GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def permutation(n: int, seed: int, epoch: int, purpose: str = "rows") -> np.ndarray:
    """A permutation of 0 … n-1, int64, shape (n,).

    Args:
        n: How many.
        seed: The run's seed.
        epoch: From 0.
        purpose: What is permuted; different purposes draw independently.
    """
    return np.argsort(_splitmix64(n, _key(seed, epoch, purpose)), kind="stable")


def uniform(n: int, seed: int, epoch: int, purpose: str, first: int = 0) -> np.ndarray:
    """Numbers in [0, 1), float64, shape (n,): those from number `first` of an endless sequence;
    other arguments as for `permutation`."""
    start = _key(seed, epoch, purpose) + first * int(GOLDEN)
    bits = _splitmix64(n, start % 2**64) >> np.uint64(11)
    return bits.astype(np.float64) / 2.0**53


def _key(seed: int, epoch: int, purpose: str) -> int:
    key = hashlib.blake2b(f"{seed}/{purpose}/{epoch}".encode(), digest_size=8).digest()
    return int.from_bytes(key, "little")


def _splitmix64(n: int, start: int) -> np.ndarray:
    """Outputs 1 … n of SplitMix64 from a state. Source: Steele, Lea, Flood 2014, figure 16."""
    with np.errstate(over="ignore"):
        z = np.arange(1, n + 1, dtype=np.uint64) * GOLDEN + np.uint64(start)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))
