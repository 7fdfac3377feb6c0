"""Equal and nearly equal texts: exact keys, and MinHash signatures in bands.

Similarity is the Jaccard index of the sets of five-character shingles, case and white space
levelled: it needs no word borders, so Chinese is as good as English. Source: Broder 1997 (MinHash);
Leskovec, Rajaraman, Ullman, Mining of Massive Datasets, chapter 3 (bands).
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np

from tunesmith.data.order import uniform
from tunesmith.types import Document, Feedback, Message, Preference, Sample, Text, Thinking

HASHES = 128
"""Of a signature: the estimate of a similarity s has standard error √(s(1−s)/128), 0.035 at 0.8."""
SHINGLE = 5
CHUNK = 4096
"""Shingles hashed at once, so that a whole book takes no more memory than a page."""


def spoken(sample: Sample) -> str:
    """All that is said in a sample, with who says it: two samples are equal if this is."""
    if isinstance(sample, Document):
        return sample.text
    if isinstance(sample, Preference):
        sides = (_said(sample.chosen), _said(sample.rejected))
        return "\x1e".join((_said(sample.prompt.messages), *sides))
    if isinstance(sample, Feedback):
        return f"{_said(sample.conversation.messages)}\x1e{sample.desirable}"
    return _said(sample.messages)


def tools(sample: Sample) -> str:
    """The tools of a sample as text, empty without any: the same words over other tools are another
    row."""
    talk = sample.prompt if isinstance(sample, Preference) else sample
    talk = talk.conversation if isinstance(talk, Feedback) else talk
    if isinstance(talk, Document) or not talk.tools:
        return ""
    return "\x1e" + json.dumps(talk.tools, ensure_ascii=False, sort_keys=True, default=str)


def asked(sample: Sample) -> str:
    """What is said before the last answer."""
    if isinstance(sample, Document):
        return sample.text
    if isinstance(sample, Preference):
        return _said(sample.prompt.messages)
    messages = (sample.conversation if isinstance(sample, Feedback) else sample).messages
    return _said(messages[:-1] if len(messages) > 1 else messages)


def _said(messages: Sequence[Message]) -> str:
    return "\x1d".join(f"{message.role}\x1f{_parts(message)}" for message in messages)


def _parts(message: Message) -> str:
    found = []
    for part in message.parts:
        if isinstance(part, Text | Thinking):
            found.append(part.text)
        else:
            found.append(f"{part.name}({part.arguments})")
    return "\x1f".join(found)


def key(text: str) -> bytes:
    """Sixteen bytes that are equal for equal texts, and for no others that will ever be met."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


# ---------------------------------------------------------------- near duplicates


def _odd_numbers() -> np.ndarray:
    """Multipliers of the hash functions, uint64, shape (HASHES, 2); always the same."""
    draws = uniform(2 * HASHES, 0, 0, "minhash") * 2.0**53
    return (draws.astype(np.uint64) << np.uint64(11) | np.uint64(1)).reshape(HASHES, 2)


def signature(text: str) -> np.ndarray:
    """The MinHash signature of a text, uint32, shape (HASHES,)."""
    hashes = _shingles(text)
    factor, add = _FUNCTIONS[:, :1], _FUNCTIONS[:, 1:]
    lowest = np.full(HASHES, np.iinfo(np.uint32).max, np.uint32)
    with np.errstate(over="ignore"):
        for start in range(0, len(hashes), CHUNK):
            mixed = (hashes[None, start : start + CHUNK] * factor + add) >> np.uint64(32)
            lowest = np.minimum(lowest, mixed.min(axis=1).astype(np.uint32))
    return lowest


def _shingles(text: str) -> np.ndarray:
    """A 64-bit hash of each run of SHINGLE characters; a shorter text is one shingle."""
    level = " ".join(text.casefold().split())
    codes = np.frombuffer(level.encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
    size = min(SHINGLE, len(codes))
    if not size:
        return np.zeros(1, np.uint64)
    value = np.zeros(len(codes) - size + 1, np.uint64)
    with np.errstate(over="ignore"):
        for i in range(size):
            value = value * np.uint64(0x100000001B3) + codes[i : len(codes) - size + 1 + i]
        value ^= value >> np.uint64(31)
        value *= np.uint64(0x9E3779B97F4A7C15)
        value ^= value >> np.uint64(29)
    return np.unique(value)


_FUNCTIONS = _odd_numbers()


def similarity(a: np.ndarray, b: np.ndarray) -> float:
    """The estimated Jaccard index of two texts, from their signatures."""
    return float(np.mean(a == b))


def bands(threshold: float) -> tuple[int, int]:
    """(bands, rows): how signatures are cut, so that few pairs above the threshold are missed.

    A pair of similarity s meets in at least one band with chance 1 − (1 − s^rows)^bands. The rows
    are the most that find 95 % of the pairs just at the threshold.
    """
    for rows in range(HASHES, 0, -1):
        count = HASHES // rows
        if 1 - (1 - threshold**rows) ** count >= 0.95:
            return count, rows
    return HASHES, 1


class NearIndex:
    """Signatures seen so far; says to which of them a new one is nearly equal."""

    def __init__(self, threshold: float):
        self.threshold = threshold
        self.count, self.rows = bands(threshold)
        self.kept: list[np.ndarray] = []
        self.buckets: defaultdict[bytes, list[int]] = defaultdict(list)

    def find_or_add(self, text: str) -> tuple[int, float] | None:
        """(number, similarity) of the nearest text above the threshold; else None, and it is kept.

        Numbers count the texts that were kept.
        """
        made = signature(text)
        places = list(self._places(made))
        near = {number for place in places for number in self.buckets.get(place, ())}
        scored = [(similarity(made, self.kept[number]), -number) for number in near]
        if scored and max(scored)[0] >= self.threshold:
            best, number = max(scored)
            return -number, best
        for place in places:
            self.buckets[place].append(len(self.kept))
        self.kept.append(made)
        return None

    def _places(self, made: np.ndarray) -> Iterator[bytes]:
        for band in range(self.count):
            part = made[band * self.rows : (band + 1) * self.rows]
            yield hashlib.blake2b(part.tobytes(), digest_size=8, salt=band.to_bytes(2)).digest()
