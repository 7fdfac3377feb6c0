"""Encoded data for people: a summary, and rows with their trained tokens marked.

`show_page.py` makes an HTML file of it.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from tunesmith.data import read, trained as counting
from tunesmith.data.formats import base as formats
from tunesmith.data.store import Dataset
from tunesmith.data.unseen import printable
from tunesmith.errors import DataError
from tunesmith.recipe.sections import DataConfig, Source
from tunesmith.types import Conversation, Encoded, Example, Feedback, Preference, Sample

Decode = Callable[[Sequence[int]], str]
CUT = "…"
SIDES = ("chosen", "rejected")
WIDTH = 30
"""Characters of the longest bar."""


class Span(NamedTuple):
    """Neighbouring tokens of one weight, or one control token."""

    text: str
    weight: float
    kind: str = "text"
    """text, token (a control token), spelled (the string of one, as plain text), or cut (a place
    where tokens were cut away)."""


class Look(NamedTuple):
    """What it takes to show encoded items to people."""

    decode: Decode
    controls: Mapping[int, str]
    """Tokens that are no text, by id."""
    sides: Sequence[str] = ()
    """What the examples of an item of several are called."""
    measured: frozenset[str] = frozenset()
    """Those of the sides that are not trained on, but measured for the others."""
    cut: Callable[[int], Encoded | None] | None = None
    """Encodes the sample of an item once more; None: nothing was cut."""
    margin: Callable[[int], float] = lambda item: 0.0
    """By how much the chosen answer of an item is better, if its row says so."""
    blocks: bool = False
    """Items of one row are parts of one document, which goes on from each to the next."""


def summary(data: Dataset, measured: Sequence[int] = ()) -> dict[str, Any]:
    """Counts, lengths and what was left out, as plain data.

    Args:
        data: All items.
        measured: Which examples of each item are not trained on, but measured for the others; their
            answers count as `measured_tokens`.
    """
    report = data.report
    lengths = data.lengths
    tokens = int(lengths.sum())
    counted = counting.tokens(data, measured)
    marks = (0, 50, 90, 99, 100)
    cut = np.percentile(lengths, marks, method="nearest").tolist() if len(data) else [0] * 5
    return {
        "sources": report["sources"],
        "rows": report["rows"],
        "items": len(data),
        "tokens": tokens,
        "trained_tokens": counted.trained,
        "trained_share": round(counted.trained / max(tokens, 1), 4),
        "measured_tokens": counted.measured,
        "truncated_tokens": report["truncated"],
        "left_out": report["bad_rows"] + report["left_out"] + report["refused"],
        "lengths": dict(zip(("min", "median", "p90", "p99", "max"), map(int, cut), strict=True)),
        "histogram": histogram(lengths),
        "problems": report["skipped"],
    }


def histogram(lengths_N: np.ndarray) -> list[dict[str, int]]:
    """Items per length, in intervals that double: from (included) to (excluded)."""
    found = Counter(int(length).bit_length() for length in lengths_N.tolist())
    if not found:
        return []
    bits = range(min(found), max(found) + 1)
    return [{"from": 1 << b >> 1, "to": 1 << b, "items": found[b]} for b in bits]


def roles(source: Source, format: str, config: DataConfig) -> dict[str, int]:
    """Messages per role in the rows of a source that can be read."""
    module = formats.load(format)
    counts: Counter[str] = Counter()
    found = read.rows(
        source.path,
        max_samples=source.max_samples,
        whole=module.WHOLE_FILES,
        on_bad=lambda error: None,
    )
    for row in found:
        try:
            for sample in formats.samples(module, row, source.columns or {}, config):
                counts.update(_roles(sample))
        except DataError:
            continue
    return dict(counts.most_common())


def _roles(sample: Sample) -> Iterable[str]:
    if isinstance(sample, Conversation):
        return (message.role for message in sample.messages)
    if isinstance(sample, Preference):
        prompt = [message.role for message in sample.prompt.messages]
        return [*prompt, *("chosen" for _ in sample.chosen), *("rejected" for _ in sample.rejected)]
    if isinstance(sample, Feedback):
        verdict = "desirable" if sample.desirable else "undesirable"
        return [*(message.role for message in sample.conversation.messages), verdict]
    return ("document",)


def rows(data: Dataset, items: Sequence[int], look: Look) -> list[dict[str, Any]]:
    """Items as plain data: where they come from, ids, weights and text of each example; and how
    many tokens it had before it was cut."""
    return [
        _shown(data, item, number, side, example, look)
        for item in items
        for number, (side, example) in enumerate(_named(data[item], look.sides))
    ]


def _shown(
    data: Dataset, item: int, number: int, side: str, example: Example, look: Look
) -> dict[str, Any]:
    ids_T, weights_T = example
    gaps = _gaps(item, number, len(data[item]), look)
    before, after = _goes_on(data, item) if look.blocks else (False, False)
    measured = side in look.measured
    marks_T = np.zeros_like(weights_T) if measured else weights_T
    found = spans(ids_T, marks_T, look, gaps)
    gap = [Span(CUT, 0.0, "cut")]
    found = [*(gap if before else []), *found, *(gap if after else [])]
    return {
        "row": item,
        "where": data.where(item),
        "side": side,
        "measured": measured,
        "margin": look.margin(item),
        "ids": ids_T.tolist(),
        "weights": weights_T.tolist(),
        "text": look.decode(ids_T.tolist()),
        "tokens_before_cut": len(ids_T) + sum(gaps.values()),
        "spans": [span._asdict() for span in found],
    }


def _gaps(item: int, number: int, count: int, look: Look) -> Mapping[int, int]:
    """Where tokens of an example were cut away; nowhere if nothing was, or it is not known."""
    made = look.cut(item) if look.cut is not None else None
    if made is None or made.gaps is None or len(made.examples) != count:
        return {}
    return made.gaps()[number]


def _goes_on(data: Dataset, item: int) -> tuple[bool, bool]:
    """Whether an item's row goes on before it and after it."""
    place = lambda i: (data.source_N[i], data.file_N[i], data.line_N[i])
    before = item > 0 and place(item - 1) == place(item)
    return before, item + 1 < len(data) and place(item + 1) == place(item)


def _named(examples: Sequence[Example], sides: Sequence[str]) -> Iterable[tuple[str, Example]]:
    if len(examples) != len(sides):
        return (("", example) for example in examples)
    return zip(sides, examples, strict=True)


def spans(
    ids_T: np.ndarray, weights_T: np.ndarray, look: Look, gaps: Mapping[int, int] | None = None
) -> list[Span]:
    """Runs of tokens of one weight, control tokens apart, and a mark wherever tokens are missing,
    with their number.

    Runs are decoded whole: a character may need several tokens.
    """
    control_T = np.isin(ids_T, list(look.controls))
    changes = (np.diff(weights_T) != 0) | control_T[1:] | control_T[:-1]
    borders = {0, *(np.flatnonzero(changes) + 1).tolist(), len(ids_T)}
    cut = {place: Span(f"{CUT}({count:,} tokens cut){CUT}", 0.0, "cut")
           for place, count in (gaps or {}).items()}  # fmt: skip
    borders |= set(cut)
    names = sorted(set(look.controls.values()), key=len, reverse=True)
    spelled = re.compile("|".join(map(re.escape, names)) or "(?!)")
    found: list[Span] = []
    for a, b in itertools.pairwise(sorted(borders)):
        if a in cut:
            found.append(cut[a])
        weight = float(weights_T[a])
        if control_T[a]:
            found.append(Span(look.controls[int(ids_T[a])], weight, "token"))
        else:
            found += _told_apart(_decoded(ids_T, a, b, look.decode), weight, spelled)
    return [*found, cut[len(ids_T)]] if len(ids_T) in cut else found


def _decoded(ids_T: np.ndarray, a: int, b: int, decode: Decode) -> str:
    """The text of a run as it is after what precedes it: some tokenizers drop a space in front."""
    before = decode(ids_T[a - 1 : a].tolist()) if a else ""
    both = decode(ids_T[max(a - 1, 0) : b].tolist())
    return both[len(before) :] if both.startswith(before) else decode(ids_T[a:b].tolist())


def _told_apart(text: str, weight: float, spelled: re.Pattern[str]) -> Iterator[Span]:
    """The text, with the strings of control tokens in it as spans of their own."""
    at = 0
    for match in spelled.finditer(text):
        if match.start() > at:
            yield Span(text[at : match.start()], weight)
        yield Span(match.group(), weight, "spelled")
        at = match.end()
    if at < len(text):
        yield Span(text[at:], weight)


# ---------------------------------------------------------------- text


def marked(found: Sequence[Mapping[str, Any]], *, colour: bool) -> str:
    """Spans as one text: trained ones green, or in [[ ]] without colour. The string of a control
    token that is only text has a backslash in front."""
    before, after = ("\x1b[32m", "\x1b[0m") if colour else ("[[", "]]")
    parts = []
    for trained, group in itertools.groupby(found, lambda span: bool(span["weight"])):
        text = "".join(map(told, group))
        parts.append(f"{before}{text}{after}" if trained else text)
    return "".join(parts)


def told(span: Mapping[str, Any]) -> str:
    """The text of a span as people read it."""
    return ("\\" if span["kind"] == "spelled" else "") + printable(span["text"])


def notes(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the marks in these rows mean, where there are any."""
    kinds = {span["kind"] for row in found for span in row["spans"]}
    said = {
        "spelled": r"\<…> is the string of a control token as plain text, not the token",
        "cut": f"{CUT} stands where tokens were cut, or the document goes on in another example",
    }
    return [text for kind, text in said.items() if kind in kinds]


def bars(intervals: Sequence[Mapping[str, int]]) -> list[str]:
    """The histogram as lines."""
    most = max((one["items"] for one in intervals), default=0)
    lines = []
    for one in intervals:
        bar = "▇" * round(WIDTH * one["items"] / most)
        lines.append(f"{one['from']:>7,} – {one['to'] - 1:<7,} {bar:<{WIDTH}} {one['items']:,}")
    return lines
