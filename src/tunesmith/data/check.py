"""Findings about encoded data: what would train badly without ever raising an error."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from tunesmith.data.store import Dataset
from tunesmith.types import Example

Level = Literal["OK", "MINOR", "MAJOR"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    level: Level
    check: str
    text: str
    where: tuple[str, ...] = ()
    """The first rows concerned."""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Markers:
    """Ids that have a meaning here."""

    end_ids: frozenset[int]
    """End-of-turn markers and EOS."""
    bos_id: int | None = None


def check(
    train: Dataset, markers: Markers, evaluation: Dataset | None = None
) -> tuple[Finding, ...]:
    """Looks through all encoded rows once.

    Args:
        train: Training data.
        markers: What ends an answer, what begins a text.
        evaluation: Evaluation data, looked at only for rows that are trained on too.
    """
    prints = fingerprints(train)
    return (
        _left_out(train.report),
        _ends(train, markers),
        _empty(train, markers),
        _double_bos(train, markers),
        _truncated(train.report),
        _unknown(train.report),
        _duplicates(train, prints),
        _equal_sides(train),
        *([_overlap(prints, evaluation)] if evaluation is not None else []),
    )


def fingerprints(data: Dataset) -> list[bytes]:
    """A hash of each item's tokens and weights."""
    return [_print(data[index]) for index in range(len(data))]


def _print(examples: Sequence[Example]) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for example in examples:
        digest.update(len(example.ids_T).to_bytes(4, "little"))
        digest.update(example.ids_T.data)
        digest.update(example.weights_T.data)
    return digest.digest()


def _left_out(report: Mapping[str, Any]) -> Finding:
    count = report["bad_rows"] + report["left_out"] + report["refused"]
    rows = report["rows"]
    if not count:
        return Finding("OK", "rows", f"all {rows:,} rows can be trained on")
    reasons = "; ".join(f"{n:,} × {why}" for why, n in list(report["reasons"].items())[:3])
    where = tuple(f"{problem['file']}:{problem['line']}" for problem in report["skipped"][:5])
    return Finding("MAJOR", "rows", f"{count:,} of {rows:,} rows can't be used: {reasons}", where)


def _ends(data: Dataset, markers: Markers) -> Finding:
    """Whether the last trained token is an end marker: else the model never learns to stop."""
    without: list[int] = []
    for index in range(len(data)):
        for example in data[index]:
            trained = np.flatnonzero(example.weights_T)
            if len(trained) and int(example.ids_T[trained[-1]]) not in markers.end_ids:
                without.append(index)
                break
    if not without:
        return Finding("OK", "end of answers", "every answer ends with a trained end marker")
    where = tuple(data.where(index) for index in without[:5])
    text = f"{len(without):,} of {len(data):,} answers don't end with a trained end marker"
    return Finding("MAJOR" if len(without) == len(data) else "MINOR", "end of answers", text, where)


def _empty(data: Dataset, markers: Markers) -> Finding:
    """Answers of which only the end marker is left: a template without tool calls drops them."""
    empty = [
        index
        for index in range(len(data))
        if any(_has_empty_answer(example, markers) for example in data[index])
    ]
    if not empty:
        return Finding("OK", "empty answers", "no trained answer is a mere end marker")
    text = f"{len(empty):,} of {len(data):,} rows train an answer that is a mere end marker"
    where = tuple(data.where(index) for index in empty[:5])
    return Finding("MAJOR", "empty answers", f"{text}: does the template drop tool calls?", where)


def _has_empty_answer(example: Example, markers: Markers) -> bool:
    trained_T = example.weights_T != 0
    starts = np.flatnonzero(trained_T & ~np.roll(trained_T, 1))
    ids = example.ids_T
    # An answer's first trained token is its end marker, and the next token is not trained.
    return any(
        int(ids[at]) in markers.end_ids and (at + 1 == len(ids) or not trained_T[at + 1])
        for at in starts
    )


def _double_bos(data: Dataset, markers: Markers) -> Finding:
    double = [
        index
        for index in range(len(data))
        if any(len(e.ids_T) > 1 and e.ids_T[0] == markers.bos_id == e.ids_T[1] for e in data[index])
    ]
    if not double:
        return Finding("OK", "BOS", "no row begins with two BOS tokens")
    text = (
        f"{len(double):,} of {len(data):,} rows begin with two BOS: template and tokenizer add one"
    )
    return Finding("MAJOR", "BOS", text, tuple(data.where(index) for index in double[:5]))


def _truncated(report: Mapping[str, Any]) -> Finding:
    tokens = report["truncated"]
    if not tokens:
        return Finding("OK", "truncation", "nothing was cut away")
    share = tokens / (tokens + report["tokens"])
    level: Level = "MAJOR" if share > 0.1 else "MINOR"
    return Finding(level, "truncation", f"{tokens:,} tokens ({share:.1%}) were cut to max_length")


def _unknown(report: Mapping[str, Any]) -> Finding:
    share = report["unknown"] / max(report["tokens"], 1)
    level: Level = "MAJOR" if share > 0.01 else "MINOR" if share > 0.001 else "OK"
    return Finding(level, "unknown tokens", f"{share:.2%} of the tokens are unknown")


def _duplicates(data: Dataset, prints: Sequence[bytes]) -> Finding:
    extra = duplicates(prints)
    if not extra:
        return Finding("OK", "duplicates", "no row stands twice")
    level: Level = "MAJOR" if len(extra) > 0.1 * len(data) else "MINOR"
    where = tuple(data.where(index) for index in extra[:5])
    return Finding(
        level, "duplicates", f"{len(extra):,} of {len(data):,} rows equal an earlier one", where
    )


def duplicates(prints: Sequence[bytes]) -> list[int]:
    """Items equal to an earlier one."""
    seen: Counter[bytes] = Counter()
    extra = []
    for index, one in enumerate(prints):
        if seen[one]:
            extra.append(index)
        seen[one] += 1
    return extra


def _equal_sides(data: Dataset) -> Finding:
    pairs = [i for i in range(len(data)) if data.count_N[i] > 1]
    equal = [i for i in pairs if len({_print([example]) for example in data[i]}) == 1]
    if not equal:
        return Finding("OK", "pairs", "no chosen answer equals its rejected one")
    where = tuple(data.where(index) for index in equal[:5])
    text = f"{len(equal):,} pairs have equal chosen and rejected answers"
    return Finding("MAJOR", "pairs", text, where)


def _overlap(prints: Sequence[bytes], evaluation: Dataset) -> Finding:
    trained = set(prints)
    both = [i for i, one in enumerate(fingerprints(evaluation)) if one in trained]
    if not both:
        return Finding("OK", "evaluation", "no evaluation row is trained on")
    where = tuple(evaluation.where(index) for index in both[:5])
    text = f"{len(both):,} of {len(evaluation):,} evaluation rows are trained on"
    return Finding("MAJOR", "evaluation", text, where)
