"""Encoded data for people: a summary, and rows with their trained tokens marked."""

from __future__ import annotations

import html
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from tunesmith.data import read
from tunesmith.data.formats import base as formats
from tunesmith.data.store import Dataset
from tunesmith.errors import DataError
from tunesmith.recipe.sections import DataConfig, Source
from tunesmith.types import Conversation, Example, Feedback, Preference, Sample

Decode = Callable[[Sequence[int]], str]
WIDTH = 30
"""Characters of the longest bar."""


class Span(NamedTuple):
    """Neighbouring tokens of one weight."""

    text: str
    weight: float


def summary(data: Dataset) -> dict[str, Any]:
    """Counts, lengths and what was left out, as plain data."""
    report = data.report
    lengths = data.lengths
    tokens = int(lengths.sum())
    trained = int(report["trained"])
    marks = (0, 50, 90, 99, 100)
    cut = np.percentile(lengths, marks, method="nearest").tolist() if len(data) else [0] * 5
    return {
        "sources": report["sources"],
        "rows": report["rows"],
        "items": len(data),
        "tokens": tokens,
        "trained_tokens": trained,
        "trained_share": round(trained / max(tokens, 1), 4),
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


def rows(
    data: Dataset, items: Sequence[int], decode: Decode, sides: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """Items as plain data: where they come from, ids, weights and text of each example.

    Args:
        data: Items.
        items: Which ones.
        decode: Ids to text.
        sides: What the examples of an item of several are called.
    """
    return [
        {
            "row": item,
            "where": data.where(item),
            "side": side,
            "ids": example.ids_T.tolist(),
            "weights": example.weights_T.tolist(),
            "text": decode(example.ids_T.tolist()),
            "spans": [span._asdict() for span in spans(example.ids_T, example.weights_T, decode)],
        }
        for item in items
        for side, example in _named(data[item], sides)
    ]


def _named(examples: Sequence[Example], sides: Sequence[str]) -> Iterable[tuple[str, Example]]:
    if len(examples) != len(sides):
        return (("", example) for example in examples)
    return zip(sides, examples, strict=True)


def spans(ids_T: np.ndarray, weights_T: np.ndarray, decode: Decode) -> list[Span]:
    """Runs of tokens of one weight. Runs are decoded whole: a character may need several tokens."""
    borders = [0, *(np.flatnonzero(np.diff(weights_T)) + 1).tolist(), len(ids_T)]
    return [
        Span(decode(ids_T[a:b].tolist()), float(weights_T[a]))
        for a, b in itertools.pairwise(borders)
        if a < b
    ]


# ---------------------------------------------------------------- text and HTML


def marked(found: Sequence[Mapping[str, Any]], *, colour: bool) -> str:
    """Spans as one text: trained ones green, or in [[ ]] without colour."""
    before, after = ("\x1b[32m", "\x1b[0m") if colour else ("[[", "]]")
    return "".join(
        f"{before}{_printable(span['text'])}{after}" if span["weight"] else _printable(span["text"])
        for span in found
    )


def _printable(text: str) -> str:
    """Data must not steer the terminal: control characters are shown, not sent."""
    return "".join(
        c if c.isprintable() or c in "\n\t" else f"\\x{ord(c):02x}" if ord(c) < 256 else c
        for c in text
    )


def bars(intervals: Sequence[Mapping[str, int]]) -> list[str]:
    """The histogram as lines."""
    most = max((one["items"] for one in intervals), default=0)
    lines = []
    for one in intervals:
        bar = "▇" * round(WIDTH * one["items"] / most)
        lines.append(f"{one['from']:>7,} – {one['to'] - 1:<7,} {bar:<{WIDTH}} {one['items']:,}")
    return lines


STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
pre { white-space: pre-wrap; border: 1px solid #8884; border-radius: 6px; padding: .8rem }
mark { background: #2e7d3233; color: inherit; border-bottom: 2px solid #2e7d32 }
h1 { font-size: 1.4rem } h1, h2, pre { overflow-wrap: anywhere }
h2 { font-size: 1rem; margin-bottom: .3rem } .MAJOR { color: #c62828 } .MINOR { color: #b26a00 }
"""


def page(
    title: str, lines: Sequence[str], findings: Sequence[Mapping[str, Any]], shown: Sequence[Any]
) -> str:
    """One HTML file that needs nothing else; every text of the data is escaped."""
    esc = html.escape
    body = [f"<h1>{esc(title)}</h1>", f"<pre>{esc(chr(10).join(lines))}</pre>", "<ul>"]
    for one in findings:
        text = f"{one['level']} · {one['check']}: {one['text']}"
        body.append(f"<li class='{one['level']}'>{esc(text)}</li>")
    body.append("</ul>")
    for row in shown:
        side = f" · {row['side']}" if row["side"] else ""
        body.append(f"<h2>{esc(row['where'] + side)} · {len(row['ids']):,} tokens</h2><pre>")
        for span in row["spans"]:
            text = esc(_printable(span["text"]))
            body.append(f"<mark>{text}</mark>" if span["weight"] else text)
        body.append("</pre>")
    head = f"<meta charset=utf-8><title>{esc(title)}</title><style>{STYLE}</style>"
    return f"<!doctype html><html lang=en><head>{head}</head><body>{''.join(body)}</body></html>\n"
