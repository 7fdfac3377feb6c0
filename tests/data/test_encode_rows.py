"""Rows with several samples or none, and rows with placeholders, in the token store."""

from __future__ import annotations

import json

import pytest

from tests.data.test_encode import CONFIG, build, content, write
from tests.data.toy import encode_one
from tunesmith.data import encode, show
from tunesmith.errors import DataError
from tunesmith.recipe.sections import Source
from tunesmith.types import Conversation, Message, Preference


def task(name, *answers):
    return {"instruction": name, "instances": [{"input": "", "output": a} for a in answers]}


def expected(question, answer):
    pair = Conversation((Message.of("user", question), Message.of("assistant", answer)))
    return [(e.ids_T.tolist(), e.weights_T.tolist()) for e in encode_one(pair).examples]


def test_each_sample_of_a_row_is_an_item_of_that_row(tmp_path):
    path = write(tmp_path / "a.jsonl", [task("a", "1", "2"), task("b"), task("c", "3")])
    data = build(path, tmp_path / "home")
    assert content(data) == [expected("a", "1"), expected("a", "2"), expected("c", "3")]
    assert [data.where(i).rpartition(":")[2] for i in range(3)] == ["1", "1", "3"]
    report = data.report
    assert (report["rows"], report["items"]) == (3, 3)
    # A row without a sample is left out and told, but is no reason to stop.
    assert (report["bad_rows"], report["left_out"]) == (0, 1)
    (problem,) = report["skipped"]
    assert (problem["code"], problem["line"], problem["policy"]) == ("D126", 2, "skip")
    assert "self_instruct" in problem["reason"]
    assert show.roles(Source(str(path)), "self_instruct", CONFIG) == {"user": 3, "assistant": 3}


def test_no_sample_in_any_row(tmp_path):
    path = write(tmp_path / "a.jsonl", [task("a"), task("b")])
    with pytest.raises(DataError, match=r"D203(.|\n)*all 2 hold nothing(.|\n)*format"):
        build(path, tmp_path / "home")


def test_a_row_is_one_problem_however_many_of_its_samples_are_bad(tmp_path):
    path = write(tmp_path / "a.jsonl", [task("a", "long row", "long row"), task("b", "1")])
    with pytest.raises(DataError, match=r"D204(.|\n)*a.jsonl:1"):
        build(path, tmp_path / "home")


def test_the_stage_decides_how_trees_are_read(tmp_path):
    answers = [
        {"text": t, "role": "assistant", "rank": i, "replies": []} for i, t in ((1, "b"), (0, "a"))
    ]
    tree = {"prompt": {"text": "hi", "role": "prompter", "replies": answers}}
    path = write(tmp_path / "a.jsonl", [tree])
    said = []
    told = lambda topic, text: said.append(text)
    pairs = build(path, tmp_path / "home", checks=encode.Checks((Preference,)), progress=told)
    assert [len(item) for item in content(pairs)] == [2]
    chats = build(path, tmp_path / "home", checks=encode.Checks((Conversation,)), progress=told)
    assert content(chats) == [expected("hi", "a")]
    assert [text.partition(": ")[2] for text in said] == [
        "oasst_pairs (detected)",
        "oasst (detected)",
    ]


def test_placeholders_are_filled_or_told(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{"instruction": "who?", "output": "<NAME>"}]))
    said = []
    build(path, tmp_path / "home", progress=lambda topic, text: said.append((topic, text)))
    assert [text for topic, text in said if topic == "note" and "<NAME>" in text]
    said.clear()
    source = Source(str(path), fill={"name": "Ada"})
    data = build((source,), tmp_path / "home", progress=lambda *words: said.append(words))
    assert content(data) == [expected("who?", "Ada")]
    assert [topic for topic, _ in said] == ["data"]
