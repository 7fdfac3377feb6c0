"""Characters that nobody meant to write are found; those that were meant are not."""

from __future__ import annotations

import json

from tunesmith.data import texts
from tunesmith.recipe.sections import Source

FINE = ["naïve café", "你好，世界", "“quotes” — dashes…", "emoji 👩‍👩‍👧", "tab\tand\nline"]


def levels(tmp_path, strings):
    path = tmp_path / "a.jsonl"
    rows = [{"messages": [{"role": "user", "content": text}]} for text in strings]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return {one.check: one for one in texts.check(Source(str(path)))}


def test_good_text(tmp_path):
    assert {one.level for one in levels(tmp_path, FINE).values()} == {"OK"}


def test_bad_text(tmp_path):
    bad = ["lost \ufffd", "caf\u00c3\u00a9", "bell \u0007", "mark \ufeff"]
    found = levels(tmp_path, [*FINE * 8, *bad])
    assert {name: one.level for name, one in found.items()} == dict.fromkeys(found, "MINOR")
    assert [one.where[0].rsplit(":")[-1] for one in found.values()] == ["41", "42", "43", "44"]
    assert levels(tmp_path, ["lost \ufffd", "good"])["encoding"].level == "MAJOR"
