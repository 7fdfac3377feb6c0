"""What is shown of one row: an example, or a pair with its prompt once and both answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from tunesmith.data.show import SIDES


class Part(NamedTuple):
    """A text with a title: the prompt of a pair, one of its answers, or a whole example."""

    title: str
    note: str
    spans: Sequence[Mapping[str, Any]]


class Block(NamedTuple):
    """A row: where it stands, and its parts."""

    where: str
    note: str
    parts: tuple[Part, ...]


def blocks(shown: Sequence[Mapping[str, Any]]) -> Iterator[Block]:
    """Rows as `show.rows` gives them, the two sides of a pair together."""
    rows = iter(shown)
    for row in rows:
        if row["side"] == SIDES[0]:
            yield _pair(row, next(rows))
        else:
            yield Block(row["where"], "", (Part(row["side"], _counts(row), row["spans"]),))


def _pair(chosen: Mapping[str, Any], rejected: Mapping[str, Any]) -> Block:
    """The prompt stands once where it is the same on both sides, untrained and whole."""
    sides = [row["spans"] for row in (chosen, rejected)]
    shared = _untrained(sides[0])
    parts: list[Part] = []
    if shared and sides[0][:shared] == sides[1][: _untrained(sides[1])]:
        parts.append(Part("prompt", "", sides[0][:shared]))
        sides = [spans[shared:] for spans in sides]
    rows = (chosen, rejected)
    parts += [
        Part(row["side"], _counts(row), spans) for row, spans in zip(rows, sides, strict=True)
    ]
    margin = f"margin {chosen['margin']:g}" if chosen["margin"] else ""
    return Block(chosen["where"], margin, tuple(parts))


def _untrained(spans: Sequence[Mapping[str, Any]]) -> int:
    """Spans before the first trained one; 0 if none is trained."""
    return next((number for number, span in enumerate(spans) if span["weight"]), 0)


def _counts(row: Mapping[str, Any]) -> str:
    """Tokens in all, and what becomes of those with a weight; one below 0 is trained too."""
    counted = sum(weight != 0 for weight in row["weights"])
    whole = row["tokens_before_cut"]
    of = f" of {whole:,}" if whole > len(row["ids"]) else ""
    what = "trained"
    if row["measured"]:
        what = "measured, none trained"
    elif any(weight < 0 for weight in row["weights"]):
        what = "trained as undesirable (weight below 0)"
    return f"{len(row['ids']):,}{of} tokens, {counted:,} {what}"
