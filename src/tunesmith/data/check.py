"""Findings about encoded data: what would train badly without ever raising an error."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tunesmith.data import check_rows, facts as items, lines, prints, report as reports, trained
from tunesmith.data.facts import Facts
from tunesmith.data.finding import MEND, SKIP, Finding, Level, Markers, places
from tunesmith.data.overlooked import UNANSWERED
from tunesmith.data.report import NOTHING
from tunesmith.data.store import Dataset

MOST_EMPTY = 0.01
"""Share of rows with an answer that is a mere end marker, above which it is no slip of the data."""
MOST_CUT = 0.1
"""Share of the tokens, or of the rows whose answer is cut, above which a length does not fit."""
READ = ("D103", "D105", "D106", "D107", "D109", "D110")
"""Rows that can't even be read: what `check --fix` is for."""


def check(
    train: Dataset,
    markers: Markers,
    evaluation: Dataset | None = None,
) -> tuple[Finding, ...]:
    """Looks through the encoded rows once. `data check` and a training ask here alike, so both
    judge alike.

    Args:
        train: Training data.
        markers: What ends an answer, what begins a text; what the recipe says of bad rows.
        evaluation: Evaluation data, looked at only for rows that are trained on too.
    """
    found = items.facts(train, markers.end_ids, markers.bos_id)
    most = prints.COMPARED
    compared = train if len(train) <= most else train.select(np.arange(most))
    seen = prints.of_items(compared, without=markers.measured)
    return (
        _left_out(train.report, markers.skipping),
        *_overlooked(train.report),
        _untrained(train, markers.measured),
        _ends(train, found, markers),
        _empty(train, found, markers),
        _double_bos(train, found),
        _truncated(train, markers),
        _unknown(train.report),
        check_rows.duplicates(compared, seen, markers),
        *(() if markers.measured else check_rows.pairs(train)),
        *_one_text(train.report),
        *_not_looked_at(train, found, compared),
        *([check_rows.overlap(seen, evaluation, markers)] if evaluation is not None else []),
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
    asked = skipping or not report["bad_rows"]  # what else is left out, the recipe asked for
    fine = asked and 2 * (count - nothing) <= rows
    level: Level = "MINOR" if fine else "MAJOR"
    text = f"{count:,} of {rows:,} rows can't be used: {reasons}"
    return Finding(level, "rows", text, where, _mend_rows(report, skipping))


def _mend_rows(report: Mapping[str, Any], skipping: bool) -> str:
    """What can be done about most of the rows that are left out. `check --fix` mends files; it
    can't write an answer that is not there, nor shorten one."""
    codes = Counter(problem["code"] for problem in report["skipped"])
    first = codes.most_common(1)[0][0] if codes else ""
    fix = "mend these rows"
    if any("max_length" in reason for reason in list(report["reasons"])[:1]):
        fix = "raise data.max_length"
    elif first in READ:
        fix = f"mend the files: {MEND}"
    elif first in ("D121", "D122", "D123") and 2 * codes[first] > report["rows"]:
        fix += ", or say what they are: --format and --columns (format: and columns: in a recipe)"
    return fix if skipping else f"{fix}, or {SKIP} to go on without them"


def _untrained(data: Dataset, measured: Sequence[int]) -> Finding:
    """Items all of whose weights are zero."""
    without = np.flatnonzero(data.trained == 0)
    if not len(without):
        share = trained.tokens(data, measured).trained / max(int(data.lengths.sum()), 1)
        text = f"every row is trained on; {share:.0%} of all tokens"
        return Finding("OK", "trained tokens", text)
    level: Level = "MAJOR" if len(without) > 0.1 * len(data) else "MINOR"
    text = f"{len(without):,} of {len(data):,} rows have no trained token"
    fix = "look at them (tunesmith data inspect FILE); see stage.train_on and the rows' weights"
    return Finding(level, "trained tokens", text, places(data, without), fix)


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
    fix = "name a data.template whose answers have an end (tunesmith data inspect FILE shows them)"
    if markers.documents:
        fix = "make the token ids anew, each document ending in EOS (tunesmith data tokenize)"
    return Finding(level, name, text, places(data, without), fix)


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
    fix = "data.template: chatml, which writes tools and calls; or remove the empty answers"
    return Finding(level, "empty answers", text, places(data, empty), fix)


def _double_bos(data: Dataset, found: Facts) -> Finding:
    double = found.items_N[found.double_bos_N]
    if not len(double):
        return Finding("OK", "BOS", "no row begins with two BOS tokens")
    text = (
        f"{len(double):,} of {len(data):,} rows begin with two BOS: template and tokenizer add one"
    )
    fix = "take BOS out of the chat template, or out of the text of the rows"
    return Finding("MAJOR", "BOS", text, places(data, double), fix)


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
    fix = "raise data.max_length, or write data.on_overlength: truncate (or skip)"
    if much and not markers.cutting:
        text += f": {fix}"
    level: Level = "MAJOR" if much and not markers.cutting else "MINOR"
    return Finding(level, "truncation", text, fix=fix)


def _unknown(report: Mapping[str, Any]) -> Finding:
    share = report["unknown"] / max(report["tokens"], 1)
    level: Level = "MAJOR" if share > 0.01 else "MINOR" if share > 0.001 else "OK"
    text = f"{share:.2%} of the tokens are unknown"
    fix = "choose a model that knows this language, or see `tunesmith model expand-vocab`"
    if level == "MAJOR":
        text += f": {fix}"
    return Finding(level, "unknown tokens", text, fix="" if level == "OK" else fix)
