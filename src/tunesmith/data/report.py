"""What is reported about encoded data, and when a report is an error."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tunesmith.data import json_rows, overlooked
from tunesmith.errors import DataError, RunError
from tunesmith.recipe.sections import DataConfig

LISTED = 1000
"""Problems listed in a report; all are counted."""
MOST_UNKNOWN = 0.01
"""Share of unknown tokens above which a tokenizer does not fit the text."""
SUMMED = ("rows", "items", "examples", "tokens", "trained", "truncated", "cut_answers", "unknown")
NOTHING = "the row holds nothing that"
"""How the reason begins for a row that is neither bad nor too long, but has no sample."""
NUMBERS = (*SUMMED, "bad_rows", "left_out", "refused")


class Problem(NamedTuple):
    """A row that is left out. `file` is a number within its source."""

    file: int
    place: int
    """Line, and number of the row: `Row.place`."""
    code: str
    reason: str
    policy: str = "row"
    """row: data.on_bad_row decides; skip: left out on purpose; error: always stops."""


def of_store(results: Sequence[Mapping[str, Any]], unreadable: Sequence[Problem]) -> dict[str, Any]:
    """The report of a complete store, from what was reported about its shards."""
    problems = sorted([*unreadable, *(Problem(*p) for r in results for p in r["problems"])])
    report = {name: sum(result[name] for result in results) for name in SUMMED}
    report["rows"] += len(unreadable)
    policies = Counter(problem.policy for problem in problems)
    return {
        **report,
        "bad_rows": policies["row"],
        "left_out": policies["skip"],
        "refused": policies["error"],
        "reasons": dict(Counter(problem.reason for problem in problems).most_common(20)),
        "problems": problems[:LISTED],
        "overlooked": overlooked.joined(result.get("overlooked", ()) for result in results),
        "shards": [[result["shard"], result["bytes"]] for result in results],
    }


def for_source(
    report: Mapping[str, Any], path: str, format: str, files: Sequence[str], key: str
) -> dict[str, Any]:
    """A store's report with names in the place of file numbers. `key` identifies the bytes of the
    rows and all that made tokens of them."""
    skipped = [
        {**_placed(files[p.file], p.place), "code": p.code, "reason": p.reason, "policy": p.policy}
        for p in (Problem(*fields) for fields in report["problems"])
    ]
    kept = {name: report[name] for name in (*NUMBERS, "reasons")}
    unused = [
        {"what": one.what, "count": one.count, **_placed(files[int(one.file)], one.place)}
        for one in named(report)
    ]
    found = {"path": path, "format": format, "key": key, **kept}
    return {**found, "skipped": skipped, "overlooked": unused}


def _placed(file: str, place: int) -> dict[str, Any]:
    """file, line, and row where an array has several on that line."""
    line, row = json_rows.line_and_row(place)
    return {"file": file, "line": line, **({"row": row} if row else {})}


def place(found: Mapping[str, Any]) -> str:
    """Where something reported stands: `file:line`, or `file:line (row N)`."""
    return f"{found['file']}:{found['line']}" + (f" (row {found['row']})" if "row" in found else "")


def named(report: Mapping[str, Any]) -> list[overlooked.Overlooked]:
    """What a store's rows say and no training sees."""
    return [overlooked.Overlooked(*one) for one in report["overlooked"]]


def joined(reports: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One report of several sources: sums, all problems, and each source's own numbers."""
    reasons: Counter[str] = Counter()
    for report in reports:
        reasons.update(report["reasons"])
    return {
        **{name: sum(report[name] for report in reports) for name in NUMBERS},
        "reasons": dict(reasons.most_common()),
        "skipped": [problem for report in reports for problem in report["skipped"]],
        "overlooked": [one for report in reports for one in report.get("overlooked", ())],
        "sources": [
            {name: report[name] for name in ("path", "format", "key", *NUMBERS)}
            for report in reports
        ],
    }


def judge(report: Mapping[str, Any], config: DataConfig, *, unk: bool) -> None:
    """Stops a run that would train on nothing, on the wrong thing, or on less than was given.

    Raises:
        DataError: the code of the first bad row, or D204; D207, rows are longer than they may be;
            D203, no row is left; D202, a tokenizer that does not know the text.
    """
    if report["refused"]:
        raise DataError(
            "D207",
            f"{report['refused']:,} of {report['rows']:,} rows are too long: "
            f"{_first(report, 'error')['reason']}",
            where=_where(report, "error", report["refused"]),
            fix="raise data.max_length, or data.on_overlength=truncate (or skip)",
        )
    if report["bad_rows"] and (config.on_bad_row == "error" or not report["items"]):
        raise _bad_rows(report)
    if not report["items"]:
        why = f"all {report['left_out']:,} are longer than data.max_length"
        fix = "check data.train, data.max_length and data.on_overlength"
        if report["left_out"] and not any(p["code"] == "D204" for p in report["skipped"]):
            why = f"all {report['left_out']:,} hold nothing that can be used"
            fix = "check data.train and its format"
        why = why if report["left_out"] else ""
        where = ", ".join(one["path"] for one in report["sources"])
        raise DataError("D203", "there are no rows to train on", where=where, why=why, fix=fix)
    share = report["unknown"] / max(report["tokens"], 1)
    if unk and share > MOST_UNKNOWN:
        raise DataError(
            "D202",
            f"{share:.1%} of the tokens are unknown to the tokenizer",
            where=_least_known(report),
            why="the model would learn to write its unknown token",
            fix="choose a model that knows this language, or see `tunesmith model expand-vocab`",
        )


def _least_known(report: Mapping[str, Any]) -> str:
    """The source with the largest share of unknown tokens."""
    share = lambda one: one["unknown"] / max(one["tokens"], 1)
    return max(report["sources"], key=share)["path"]


def _bad_rows(report: Mapping[str, Any]) -> DataError:
    """One error about all bad rows: the first one's, how many, and why."""
    count, total = report["bad_rows"], report["rows"]
    first = _first(report, "row")
    where = _where(report, "row", count)
    fix = _advice(first, anything=bool(report["items"]))
    if "chat template" in first["reason"]:
        fix = f"choose another data.template (chatml writes tools and calls), or {fix}"
    if count == 1:
        return DataError(first["code"], first["reason"], where=where, fix=fix)
    reasons = _reasons(report, count)
    why = "\n".join(f"{n:,} × {reason}" for reason, n in reasons[:3])
    same = len(reasons) == 1
    what = f"{count:,} of {total:,} rows can't be used: {first['reason'] if same else 'see below'}"
    return DataError(first["code"], what, where=where, why="" if same else why, fix=fix)


def _reasons(report: Mapping[str, Any], count: int) -> list[tuple[str, int]]:
    """Why rows are bad, the most frequent first, without those that are left out on purpose; with
    them where more problems are there than are listed."""
    listed = Counter(p["reason"] for p in report["skipped"] if p["policy"] == "row")
    return listed.most_common() if listed.total() == count else list(report["reasons"].items())


def _advice(first: Mapping[str, Any], *, anything: bool) -> str:
    """What to do about bad rows like this one; `anything`: other rows can be used."""
    mend = "mend the rows"
    if "data.max_length" in first["reason"]:
        mend = "raise data.max_length"
    elif not anything and first["code"] in ("D121", "D122", "D123"):
        mend += ", or say what they are: --format and --columns (format: and columns: in a recipe)"
    return mend + (", or data.on_bad_row=skip to go on without them" if anything else "")


def _first(report: Mapping[str, Any], policy: str) -> Mapping[str, Any]:
    """The first problem of a policy; any if more than LISTED others came before."""
    listed = report["skipped"]
    return next((problem for problem in listed if problem["policy"] == policy), listed[0])


def _where(report: Mapping[str, Any], policy: str, count: int) -> str:
    first = _first(report, policy)
    looked_at = first["file"] if first["code"].startswith("D1") else "RECIPE"
    listed = f"; list: tunesmith data inspect {looked_at} --all" if report["items"] else ""
    more = f" (+{count - 1:,} more{listed})"
    return place(first) + (more if count > 1 else "")


def no_room(path: Path, error: OSError, thing: str = "the token store") -> RunError:
    """R221: the store, or a copy of a data set, can't be written."""
    what = f"{thing} can't be written: {error.strerror or error}"
    fix = "free space there, or set TUNESMITH_HOME to another disk"
    return RunError("R221", what, where=str(path), fix=fix)
