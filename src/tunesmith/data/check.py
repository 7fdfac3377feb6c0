"""Findings about encoded data: what would train badly without ever raising an error."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from tunesmith.data import facts as items, lines, report as reports
from tunesmith.data.facts import Facts
from tunesmith.data.overlooked import UNANSWERED
from tunesmith.data.report import NOTHING
from tunesmith.data.store import Dataset
from tunesmith.types import Example

Level = Literal["OK", "MINOR", "MAJOR"]

COMPARED = 1_000_000
"""Rows compared with each other; more would take longer than they are worth before every run."""
MOST_COPIES = 0.5
"""Share of rows that are copies above which a data set is not what it seems."""
MOST_SEEN = 0.1
"""Share of evaluation tokens that are trained on above which their loss says nothing."""
MOST_EQUAL = 0.01
"""Share of pairs without a difference above which something went wrong in making them."""
MOST_EMPTY = 0.01
"""Share of rows with an answer that is a mere end marker, above which it is no slip of the data."""
MOST_CUT = 0.1
"""Share of the tokens, or of the rows whose answer is cut, above which a length does not fit."""
BIAS = 0.75
"""Share of pairs in which the same side is longer, above which length is what will be learnt."""
FEWEST = 20
"""Rows or pairs below which a share of copies or of longer answers tells nothing."""


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
    documents: bool = False
    """Rows are documents, perhaps in several blocks; only the last block of each ends it."""
    max_length: int | None = None
    """What text is cut to, for the message."""
    cutting: bool = False
    """The user wrote that longer rows are to be cut."""
    pairs: bool = True
    """Items of two examples are a chosen and a rejected answer; else an answer and a mismatch."""


def check(
    train: Dataset,
    markers: Markers,
    evaluation: Dataset | None = None,
    *,
    skipping: bool = False,
) -> tuple[Finding, ...]:
    """Looks through the encoded rows once.

    Args:
        train: Training data.
        markers: What ends an answer, what begins a text.
        evaluation: Evaluation data, looked at only for rows that are trained on too.
        skipping: Before a training. Rows are left out because the recipe says so: worth a word, no
            reason to stop unless more than half of them are gone. Nor are copies among documents
            or a few rows.
    """
    found = items.facts(train, markers.end_ids, markers.bos_id)
    compared = train if len(train) <= COMPARED else train.select(np.arange(COMPARED))
    prints = fingerprints(compared)
    return (
        _left_out(train.report, skipping),
        *_overlooked(train.report),
        _untrained(train, markers.pairs),
        _ends(train, found, markers),
        _empty(train, found, markers),
        _double_bos(train, found),
        _truncated(train, markers),
        _unknown(train.report),
        _duplicates(compared, prints, skipping and (markers.documents or len(train) < FEWEST)),
        *([_equal_sides(train), _length_bias(train)] if markers.pairs else []),
        *_one_text(train.report),
        *_not_looked_at(train, found, compared),
        *([_overlap(prints, evaluation, markers)] if evaluation is not None else []),
    )


def _one_text(report: Mapping[str, Any]) -> list[Finding]:
    """Says so where lines are trained as documents, and look like parts of one text."""
    found, files, documents = lines.suspects(report.get("sources", ()))
    if not found:
        return []
    which = "the file looks" if files == 1 else f"{len(found):,} of {files:,} files look"
    text = (
        f"each line is trained as a document of its own ({documents:,}), and {which} like one text:"
        " short lines, blank lines between paragraphs, sentences that go on in the next line; for"
        " one document a file say format: document of the source (or --format document)"
    )
    return [Finding("MINOR", "lines", text, tuple(f"{file}:1" for file in found[:5]))]


def _not_looked_at(train: Dataset, found: Facts, compared: Dataset) -> list[Finding]:
    """Says so where more rows are there than a run can wait for."""
    parts = []
    if len(found.items_N) < len(train):
        parts.append(f"the first {len(found.items_N):,} were looked at for end markers and BOS")
    if len(compared) < len(train):
        parts.append(f"the first {len(compared):,} were compared with each other")
    if not parts:
        return []
    text = f"of {len(train):,} rows only {' and '.join(parts)}"
    return [Finding("MINOR", "looked at", text)]


def worst(findings: Sequence[Finding]) -> Level:
    """The most severe level."""
    levels = {one.level for one in findings}
    return "MAJOR" if "MAJOR" in levels else "MINOR" if "MINOR" in levels else "OK"


def fingerprints(data: Dataset) -> list[bytes]:
    """A hash of each item's tokens and weights."""
    return [_print(data[index]) for index in range(len(data))]


def _print(examples: Sequence[Example]) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for example in examples:
        digest.update(len(example.ids_T).to_bytes(4, "little"))
        digest.update(np.ascontiguousarray(example.ids_T).data)
        digest.update(np.ascontiguousarray(example.weights_T).data)
    return digest.digest()


def _where(data: Dataset, rows: np.ndarray | Sequence[int]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(data.where(int(index)) for index in rows[:5]))


def _overlooked(report: Mapping[str, Any]) -> tuple[Finding, Finding]:
    """Columns that no format reads, and last turns that nobody answers."""
    found = report.get("overlooked", ())
    ends = [one for one in found if one["what"] == UNANSWERED]
    unread = [one for one in found if one["what"] != UNANSWERED]
    if unread:
        named = [f"{one['what']} ({one['count']:,} rows)" for one in unread[:8]]
        more = f" and {len(unread) - 8} more" if len(unread) > 8 else ""
        text = f"columns that are not used, so not trained: {', '.join(named)}{more}"
        columns = Finding("MINOR", "columns", text, _places(unread))
    else:
        columns = Finding("OK", "columns", "every column that holds something is used")
    if not ends:
        return columns, Finding("OK", "last turns", "no conversation goes on after its last answer")
    count = sum(one["count"] for one in ends)
    text = f"{count:,} rows go on after their last answer; that part is left away"
    return columns, Finding("MINOR", "last turns", text, _places(ends))


def _places(found: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(reports.place(one) for one in found))[:5]


def _left_out(report: Mapping[str, Any], skipping: bool) -> Finding:
    count = report["bad_rows"] + report["left_out"] + report["refused"]
    rows = report["rows"]
    if not count:
        return Finding("OK", "rows", f"all {rows:,} rows can be trained on")
    reasons = "; ".join(f"{n:,} × {why}" for why, n in list(report["reasons"].items())[:3])
    where = tuple(reports.place(problem) for problem in report["skipped"][:5])
    nothing = sum(n for why, n in report["reasons"].items() if why.startswith(NOTHING))
    fine = count == nothing or (skipping and 2 * (count - nothing) <= rows)
    level: Level = "MINOR" if fine else "MAJOR"
    return Finding(level, "rows", f"{count:,} of {rows:,} rows can't be used: {reasons}", where)


def _untrained(data: Dataset, all_trained: bool) -> Finding:
    """Items all of whose weights are zero; `all_trained`: what has a weight is trained, and none of
    it only measured, so that a share can be told."""
    without = np.flatnonzero(data.trained == 0)
    if not len(without):
        share = float(data.trained.sum()) / max(int(data.lengths.sum()), 1)
        told = f"; {share:.0%} of all tokens" if all_trained else ""
        return Finding("OK", "trained tokens", f"every row is trained on{told}")
    level: Level = "MAJOR" if len(without) > 0.1 * len(data) else "MINOR"
    text = f"{len(without):,} of {len(data):,} rows have no trained token"
    return Finding(level, "trained tokens", text, _where(data, without))


def _ends(data: Dataset, found: Facts, markers: Markers) -> Finding:
    """Whether the last trained token is an end marker: else the model never learns to stop."""
    name, noun = "end of answers", "answers"
    endless = found.endless_N
    looked = len(endless)
    if markers.documents:
        name, noun = "end of documents", "documents"
        last = _last_of_row(data, found.items_N)
        endless, looked = endless & last, int(last.sum())
    without = found.items_N[endless]
    if not len(without):
        return Finding("OK", name, f"all {noun} end with a trained end marker")
    level: Level = "MAJOR" if len(without) == looked else "MINOR"
    text = f"{len(without):,} of {looked:,} {noun} don't end with a trained end marker"
    return Finding(level, name, text, _where(data, without))


def _last_of_row(data: Dataset, items_N: np.ndarray) -> np.ndarray:
    """Which of these items are the last of their row, among items in the order of rows."""
    if not len(items_N):
        return np.zeros(0, bool)
    file_N, line_N = data.file_N[items_N], data.line_N[items_N]
    changes = (np.diff(file_N) != 0) | (np.diff(line_N) != 0)
    return np.concatenate([changes, [True]])


def _empty(data: Dataset, found: Facts, markers: Markers) -> Finding:
    """Answers of which only the end marker is left: a template without tool calls drops them."""
    if markers.documents:  # the last block of a document may well have nothing new but its EOS
        return Finding("OK", "empty answers", "documents have no answers")
    empty = found.items_N[found.hollow_N]
    if not len(empty):
        return Finding("OK", "empty answers", "no trained answer is a mere end marker")
    text = f"{len(empty):,} of {len(data):,} rows train an answer that is a mere end marker"
    text = f"{text}: does the template drop tool calls?"
    level: Level = "MAJOR" if len(empty) > MOST_EMPTY * len(data) else "MINOR"
    return Finding(level, "empty answers", text, _where(data, empty))


def _double_bos(data: Dataset, found: Facts) -> Finding:
    double = found.items_N[found.double_bos_N]
    if not len(double):
        return Finding("OK", "BOS", "no row begins with two BOS tokens")
    text = (
        f"{len(double):,} of {len(data):,} rows begin with two BOS: template and tokenizer add one"
    )
    return Finding("MAJOR", "BOS", text, _where(data, double))


def _truncated(data: Dataset, markers: Markers) -> Finding:
    """What the length cost, judged alike wherever it is asked. The most severe level is for nobody
    having asked for it."""
    report = data.report
    tokens, cut = report["truncated"], report.get("cut_answers", 0)
    if not tokens:
        return Finding("OK", "truncation", "nothing was cut away")
    share, rows = tokens / (tokens + report["tokens"]), max(report["rows"], 1)
    limit = f"max_length {markers.max_length:,}" if markers.max_length else "max_length"
    text = f"{tokens:,} tokens ({share:.1%}) were cut to {limit}"
    if cut:
        text += f"; {cut:,} of {rows:,} rows ({cut / rows:.0%}) lost trained tokens"
    much = share > MOST_CUT or cut / rows > MOST_CUT
    if much and not markers.cutting:
        text += ": raise data.max_length, or write data.on_overlength: truncate (or skip)"
    level: Level = "MAJOR" if much and not markers.cutting else "MINOR"
    return Finding(level, "truncation", text)


def _unknown(report: Mapping[str, Any]) -> Finding:
    share = report["unknown"] / max(report["tokens"], 1)
    level: Level = "MAJOR" if share > 0.01 else "MINOR" if share > 0.001 else "OK"
    text = f"{share:.2%} of the tokens are unknown"
    if level == "MAJOR":
        text += ": choose a model that knows this language, or see `tunesmith model expand-vocab`"
    return Finding(level, "unknown tokens", text)


def _duplicates(data: Dataset, prints: Sequence[bytes], trial: bool) -> Finding:
    """Rows that stand twice. `trial`: a few rows to try something with, or lines of a text, which
    any text repeats: worth a word before a training."""
    extra = duplicates(prints)
    if not extra:
        return Finding("OK", "duplicates", "no row stands twice")
    level: Level = "MAJOR" if len(extra) > MOST_COPIES * len(data) and not trial else "MINOR"
    text = f"{len(extra):,} of {len(data):,} rows equal an earlier one"
    return Finding(level, "duplicates", f"{text} (tunesmith data dedup)", _where(data, extra))


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
    pairs = np.flatnonzero(data.count_N > 1)
    sides = ({_print([example]) for example in data[int(i)]} for i in pairs)
    equal = pairs[[len(prints) == 1 for prints in sides]] if len(pairs) else pairs
    if not len(equal):
        return Finding("OK", "pairs", "no chosen answer equals its rejected one")
    level: Level = "MAJOR" if len(equal) > MOST_EQUAL * len(pairs) else "MINOR"
    text = f"{len(equal):,} of {len(pairs):,} pairs have equal chosen and rejected answers"
    return Finding(level, "pairs", text, _where(data, equal))


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


def _overlap(prints: Sequence[bytes], evaluation: Dataset, markers: Markers) -> Finding:
    """Rows on both sides, by the tokens they hold: short lines that any text repeats weigh little,
    and in a corpus of them they are no leak."""
    trained = set(prints)
    both = [i for i, one in enumerate(fingerprints(evaluation)) if one in trained]
    if not both:
        return Finding("OK", "evaluation", "no evaluation row is trained on")
    share = float(evaluation.trained[both].sum()) / max(float(evaluation.trained.sum()), 1.0)
    level: Level = "MAJOR" if share > MOST_SEEN and not markers.documents else "MINOR"
    text = f"{len(both):,} of {len(evaluation):,} evaluation rows are trained on"
    return Finding(level, "evaluation", text, _where(evaluation, both))
