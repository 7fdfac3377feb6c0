"""Columns that no format reads and turns without an answer are counted, never silent."""

from __future__ import annotations

import json

import pytest

from tests.data.formats.parsing import CONFIG, row
from tests.data.test_encode import build, write
from tunesmith.data import check, overlooked
from tunesmith.data.formats import base

CHAT = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]
TURNS = [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "yo"}]
TREE = {"text": "Q", "role": "prompter", "replies": [{"text": "A", "role": "assistant"}]}
HC3 = {"question": "q", "human_answers": ["a"], "chatgpt_answers": ["b"]}
SPOKEN = [{"who": "Bob", "says": "hi"}, {"who": "Bot", "says": "yo"}]
TAGS = {"messages": "talk", "role_tag": "who", "content_tag": "says"}
TAGS |= {"user_tag": "Bob", "assistant_tag": "Bot"}
ROWS = [
    ("alpaca", {"instruction": "q", "input": "x", "output": "a", "history": [["u", "v"]]}, None),
    ("alpaca", {"frage": "q", "output": "a"}, {"instruction": "frage"}),
    ("prompt_completion", {"q": "hi", "a": "yo"}, None),
    ("prompt_completion", {"frage": "hi", "da": "yo"}, {"prompt": "frage", "completion": "da"}),
    ("openai", {"messages": CHAT, "tools": [{"name": "f"}], "system": "s"}, None),
    ("sharegpt", {"conversations": TURNS, "tools": "[]"}, None),
    ("sharegpt", {"talk": SPOKEN}, TAGS),
    ("ultrachat", {"data": ["hi", "yo"]}, None),
    ("self_instruct", {"instruction": "q", "instances": [{"input": "", "output": "a"}]}, None),
    ("oasst", {"prompt": TREE}, None),
    ("hc3_human", HC3, None),
    ("hc3_pairs", HC3, None),
    ("preference", {"prompt": "q", "chosen": "a", "rejected": "b"}, None),
    (
        "preference",
        {"frage": "q", "gut": "a", "rejected": "b"},
        {"prompt": "frage", "chosen": "gut"},
    ),
    ("preference", {"instruction": "q", "output": ["a", "b"]}, None),
    ("preference", {"chosen": CHAT[:1] + CHAT[1:], "rejected": [*CHAT[:1], CHAT[1]]}, None),
    ("feedback", {"messages": CHAT, "label": True}, None),
    ("feedback", {"instruction": "q", "output": "a", "kto_tag": False}, None),
    ("feedback", {"prompt": "q", "completion": "a", "urteil": "true"}, {"label": "urteil"}),
    ("text", {"text": "hi"}, None),
]


def unused(format, value, columns):
    watched = overlooked.watched(row(value))
    samples = base.samples(base.load(format), watched, columns or {}, CONFIG)
    return sorted(overlooked.found(watched, samples))


@pytest.mark.parametrize(("format", "value", "columns"), ROWS)
def test_what_is_read_is_not_reported_and_what_is_not_is(format, value, columns):
    if not format.startswith("hc3_human"):  # one side is chosen, the other is left
        assert unused(format, value, columns) == []
    else:
        assert unused(format, value, columns) == ["`chatgpt_answers`"]
    more = {**value, "remark": "the document it is all about", "nothing": "", "none": None}
    assert "`remark`" in unused(format, more, columns)
    assert not {"`nothing`", "`none`"} & set(unused(format, more, columns))


def test_what_is_parsed_is_the_same_watched_or_not():
    for format, value, columns in ROWS:
        module = base.load(format)
        plain = base.samples(module, row(value), columns or {}, CONFIG)
        assert base.samples(module, overlooked.watched(row(value)), columns or {}, CONFIG) == plain


def test_keys_of_messages():
    turns = [{**CHAT[0], "mood": "gay"}, {**CHAT[1], "train": False, "weight": 1, "name": "Ada"}]
    assert unused("openai", {"messages": turns}, None) == [
        "`messages[].mood`",
        "`messages[].train`",
    ]


def test_a_context_that_holds_no_template_variables():
    value = {"question": "q", "answer": "a", "context": "the document"}
    assert unused("prompt_completion", value, None) == ["`context`"]
    assert unused("prompt_completion", {**value, "context": {"system": "s"}}, None) == []


def test_of_two_columns_for_one_role_the_other_is_told():
    value = {"instruction": "q", "output": "a", "response": "another"}
    assert unused("alpaca", value, None) == ["`response`"]


def test_turns_after_the_last_answer():
    more = [*CHAT, {"role": "user", "content": "and?"}]
    assert unused("openai", {"messages": more}, None) == [overlooked.UNANSWERED]
    assert unused("openai", {"messages": more[:1]}, None) == []  # told as a bad row
    assert unused("ultrachat", {"data": ["hi", "yo", "and?"]}, None) == [overlooked.UNANSWERED]


def test_counts_with_the_first_place_in_report_and_findings(tmp_path):
    rows = [{"instruction": f"q{i}", "output": f"a{i}"} for i in range(5)]
    rows[2]["context"] = rows[4]["context"] = "c"
    path = write(tmp_path / "a.jsonl", rows)
    data = build(path, tmp_path / "home")
    (one,) = data.report["overlooked"]
    assert (one["what"], one["count"], one["line"]) == ("`context`", 2, 3)
    assert one["file"].endswith("a.jsonl")
    assert json.loads(json.dumps(data.report["overlooked"])) == [one]
    findings = {f.check: f for f in check.check(data, check.Markers(frozenset({2})))}
    assert findings["columns"].level == "MINOR"
    assert "`context` (2 rows)" in findings["columns"].text
    assert findings["columns"].where[0].endswith("a.jsonl:3")
    assert findings["last turns"].level == "OK"
    again = build(path, tmp_path / "home")  # from the store
    assert again.report["overlooked"] == data.report["overlooked"]


def test_shards_are_summed_and_names_bounded():
    names = [[overlooked.Overlooked(f"`{i}`", 1, 0, i + 1)] for i in range(overlooked.MOST + 50)]
    summed = overlooked.joined([*names, [overlooked.Overlooked("`0`", 2, 0, 900)]])
    assert len(summed) == overlooked.MOST + 1
    by_name = {one.what: one for one in summed}
    assert by_name["`0`"] == ("`0`", 3, 0, 1)
    assert by_name[overlooked.OTHERS].count == 50
