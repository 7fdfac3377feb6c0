"""Files made of files: counts, sides and copies are what was asked for."""

from __future__ import annotations

import json

import pytest

from tunesmith.data import read, rewrite
from tunesmith.errors import DataError
from tunesmith.recipe.sections import Holdout, Source


def file(tmp_path, rows, name="a.jsonl"):
    path = tmp_path / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return Source(str(path))


def qa(*names):
    return [{"prompt": f"question {name}?", "completion": f"answer {name}"} for name in names]


def values(path):
    return [row.value for row in read.rows(path)]


def test_rows_keep_their_columns_unless_a_format_is_asked_for(tmp_path):
    rows = [{**row, "source": "x"} for row in qa(1, 2)]
    source = file(tmp_path, rows)
    left_out = rewrite.LeftOut(skip=False)
    found = rewrite.to_format(source, tmp_path / "b.csv", None, left_out)
    assert (found["written"], values(tmp_path / "b.csv")) == (2, rows)
    rewrite.to_format(source, tmp_path / "c.jsonl", "openai", left_out)
    assert values(tmp_path / "c.jsonl")[0] == {
        "messages": [
            {"role": "user", "content": "question 1?"},
            {"role": "assistant", "content": "answer 1"},
        ]
    }


def test_bad_rows_stop_or_are_listed(tmp_path):
    rows = [*qa(1), {"prompt": "p", "completion": ""}, *qa(2)]
    source = file(tmp_path, rows)
    with pytest.raises(DataError, match="D122"):
        rewrite.to_format(source, tmp_path / "b.jsonl", None, rewrite.LeftOut(skip=False))
    assert not (tmp_path / "b.jsonl").exists()
    found = rewrite.to_format(source, tmp_path / "b.jsonl", None, rewrite.LeftOut(skip=True))
    assert (found["rows"], found["written"], found["left_out"]) == (2, 2, 1)
    assert found["problems"][0]["where"].endswith("a.jsonl:2")


@pytest.mark.parametrize(("holdout", "count"), [(Holdout(fraction=0.2), 4), (Holdout(count=7), 7)])
def test_split_sides_are_complete_disjoint_and_repeatable(tmp_path, holdout, count):
    source = file(tmp_path, qa(*range(20)))
    paths = [tmp_path / name for name in ("t.jsonl", "e.jsonl", "t2.jsonl", "e2.jsonl")]
    found = rewrite.into_two(source, *paths[:2], holdout, 7)
    rewrite.into_two(source, *paths[2:], holdout, 7)
    train, evaluation = values(paths[0]), values(paths[1])
    assert (found["train"], found["eval"]) == (20 - count, count)
    assert sorted(row["prompt"] for row in train + evaluation) == sorted(
        row["prompt"] for row in qa(*range(20))
    )
    assert (values(paths[2]), values(paths[3])) == (train, evaluation)


def test_equal_rows_stay_on_one_side(tmp_path):
    source = file(tmp_path, qa(*range(10)) * 3)
    found = rewrite.into_two(source, tmp_path / "t.jsonl", tmp_path / "e.jsonl",
                             Holdout(fraction=0.3), 1)  # fmt: skip
    sides = [{row["prompt"] for row in values(tmp_path / f"{s}.jsonl")} for s in "te"]
    assert not sides[0] & sides[1]
    assert (found["eval"], found["copies"]) == (9, 20)


def test_mixtures(tmp_path):
    a, b = file(tmp_path, qa(*"abcde")), file(tmp_path, qa(*"xy"), "b.jsonl")
    names = lambda path: "".join(row["prompt"][9] for row in values(path))
    out = tmp_path / "m.jsonl"
    rewrite.together([a, b], out, "concat", None, 1)
    assert names(out) == "abcdexy"
    rewrite.together([a, b], out, "interleave_under", None, 1)
    assert names(out) == "axby"
    found = rewrite.together([a, b], out, "interleave_over", None, 1)
    assert names(out) == "axbycxdyex"
    assert [(one["rows"], one["written"]) for one in found["sources"]] == [(5, 5), (2, 5)]
    rewrite.together([a, b], out, "interleave_under", [0.9, 0.1], 1)
    first = names(out)
    rewrite.together([a, b], out, "interleave_under", [0.9, 0.1], 1)
    assert names(out) == first
    assert first.replace("x", "").replace("y", "") == "abcde"[: len(first) - first.count("x")
                                                             - first.count("y")]  # fmt: skip


def test_mixtures_of_formats(tmp_path):
    a = file(tmp_path, qa(1))
    b = file(tmp_path, [{"instruction": "i", "output": "o"}], "b.jsonl")
    pairs = file(tmp_path, [{"prompt": "p", "chosen": "c", "rejected": "r"}], "c.jsonl")
    found = rewrite.together([a, b], tmp_path / "m.jsonl", "concat", None, 1)
    assert found["to"] == "openai"
    assert all("messages" in row for row in values(tmp_path / "m.jsonl"))
    with pytest.raises(DataError, match="D211"):
        rewrite.together([a, pairs], tmp_path / "m.jsonl", "concat", None, 1)


LONG = "The miller sells flour to everyone who comes over the bridge in the morning, rain or shine."


def test_duplicates(tmp_path):
    rows = [
        *qa(1, 2, 1),
        {"prompt": "question 1?", "completion": "another answer"},
        {"prompt": "Who?", "completion": LONG},
        {"prompt": "Who?", "completion": LONG.replace("rain or shine", "rain or sun")},
    ]
    source = file(tmp_path, rows)
    out = tmp_path / "out.jsonl"
    dedup = lambda near, on: rewrite.without_duplicates(
        source, out, near=near, on=on, left_out=rewrite.LeftOut(skip=False)
    )
    found = dedup(None, "all")
    assert (found["written"], found["equal"], found["near"]) == (5, 1, 0)
    assert found["removed"][0]["where"].endswith(":3")
    assert found["removed"][0]["of"].endswith(":1")
    assert values(out) == [rows[i] for i in (0, 1, 3, 4, 5)]
    found = dedup(0.7, "all")
    assert (found["written"], found["equal"], found["near"]) == (4, 1, 1)
    assert found["removed"][1]["of"].endswith(":5")
    found = dedup(None, "prompt")
    assert (found["written"], found["equal"]) == (3, 3)


@pytest.mark.shared
def test_exact_duplicates_of_real_data_are_all_found(shared_data, tmp_path):
    source = Source(str(shared_data / "instruct/llamafactory/alpaca_zh_demo.json"))
    found = rewrite.without_duplicates(
        source, tmp_path / "o.json", near=None, on="all", left_out=rewrite.LeftOut(skip=True)
    )
    rows = values(source.path)
    distinct = {json.dumps([r["instruction"], r["input"], r["output"]]) for r in rows}
    assert found["written"] == len(distinct) < len(rows)


def test_rows_of_several_samples_stay_whole_and_rows_of_none_are_counted(tmp_path):
    two = [{"input": f"in {i}", "output": f"out {i}"} for i in (1, 2)]
    rows = [{"instruction": "do", "instances": two}, {"instruction": "not", "instances": []}]
    source = Source(file(tmp_path, [*rows, rows[0]]).path, format="self_instruct")
    left_out = rewrite.LeftOut(skip=False)
    found = rewrite.to_format(source, tmp_path / "b.jsonl", "openai", left_out)
    assert (found["rows"], found["written"], found["left_out"]) == (2, 4, 1)
    assert found["problems"][0]["code"] == "D126"
    rewrite.to_format(source, tmp_path / "c.jsonl", None, rewrite.LeftOut(skip=False))
    assert values(tmp_path / "c.jsonl") == [rows[0], rows[0]]
    found = rewrite.without_duplicates(
        source, tmp_path / "d.jsonl", near=None, on="all", left_out=rewrite.LeftOut(skip=False)
    )
    assert (found["written"], found["equal"]) == (1, 1)


def test_the_same_words_over_other_tools_are_another_row(tmp_path):
    talk = [{"role": "user", "content": "Rain?"}, {"role": "assistant", "content": "No."}]
    tool = lambda name: {"type": "function", "function": {"name": name, "parameters": {}}}
    rows = [{"messages": talk, "tools": [tool(name)]} for name in ("a", "b", "a")]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = rewrite.without_duplicates(
        Source(str(path)), tmp_path / "b.jsonl", near=None, on="all",
        left_out=rewrite.LeftOut(skip=False),
    )  # fmt: skip
    assert (found["rows"], found["written"], found["equal"]) == (3, 2, 1)
