"""Columns by role, detection among all formats, and the real files."""

from __future__ import annotations

import itertools

import pytest

from tests.data.formats.parsing import CONFIG, parse, row, said
from tests.data.formats.test_preference import PAIRS
from tunesmith import registry
from tunesmith.data import read
from tunesmith.data.formats import base
from tunesmith.errors import ConfigError, DataError
from tunesmith.types import (
    Document,
)


def test_columns_are_mapped():
    value = {"q": "hi", "extra": "there", "a": "yo"}
    columns = {"instruction": "q", "input": "extra", "output": "a"}
    assert said(parse(value, columns)) == [("user", "hi\nthere"), ("assistant", "yo")]
    poem = {"title": "t", "paragraphs": ["one", "two"]}
    assert parse(poem, {"text": "paragraphs"}) == Document("one\ntwo")
    pair = {"question": "hi", "good": "yo", "bad": "no"}
    mapped = parse(pair, {"prompt": "question", "chosen": "good", "rejected": "bad"})
    assert said(mapped.chosen) == [("assistant", "yo")]


def test_unknown_role_of_a_column():
    with pytest.raises(DataError, match=r"D125.*`promt`(.|\n)*did you mean `prompt`"):
        base.check_columns("prompt_completion", {"promt": "q"}, "a.jsonl")


def test_one_bad_row_does_not_hide_the_format():
    rows = [row({"nonsense": 1}), row({"instruction": "a", "output": "b"}), row({"q": 1})]
    with pytest.raises(DataError, match=r"D120.*nonsense"):
        base.detect(rows)
    assert base.detect([*rows, *([rows[1]] * 3)]) == "alpaca"


def test_a_format_that_is_none():
    with pytest.raises(ConfigError, match=r"C110(.|\n)*did you mean `alpaca`"):
        base.load("alpca")


def test_detection_is_unambiguous_among_all_examples():
    examples = [*PAIRS.values(), {"prompt": "a", "completion": "b", "label": True}]
    for value in examples:
        fitting = [n for n in registry.names("formats") if base.load(n).detect([row(value)])]
        assert len(fitting) == 1, (value, fitting)


# What the real files are: format, rows, rows that are bad, or the code of the refusal.
REAL = {
    "instruct/alpaca_data.json": ("alpaca", 52_002, 28),
    "instruct/llama-efficient-tuning-old/glaive_func_call.json": ("sharegpt", 2, 0),
    "instruct/llama-efficient-tuning-old/lima.json": ("alpaca", 1029, 0),
    "instruct/llama-efficient-tuning-old/oaast_rm_zh.json": ("preference", 775, 0),
    "instruct/llamafactory/c4_demo.jsonl": ("text", 300, 0),
    "instruct/llamafactory/dataset_info.json": "D106",
    "instruct/llamafactory/dpo_en_demo.json": ("preference", 299, 0),
    "instruct/llamafactory/glaive_toolcall_en_demo.json": ("sharegpt", 300, 0),
    "instruct/llamafactory/kto_en_demo.json": ("feedback", 300, 0),
    "instruct/llamafactory/mllm_demo.json": ("openai", 6, 6),
    "instruct/llamafactory/reason_tool_use_demo_50.jsonl": ("openai", 50, 0),
    "instruct/llamafactory/v1_dpo_demo.jsonl": ("preference", 10, 0),
    "instruct/llamafactory/v1_sft_demo.jsonl": ("openai", 500, 0),
    "instruct/llamafactory/wiki_demo.txt": ("text", None, 0),
    "instruct/llms_tool/finetune/example/train": ("alpaca", 667, 0),
    "instruct/llms_tool/rm/example/train": ("preference", 49, 0),
    "instruct/misc/AdvertiseGen_dev.json": ("prompt_completion", 1070, 0),
    "instruct/misc/BELLE_eval_set.json": "D120",
    "instruct/misc/dev1K.json": ("alpaca", 1000, 0),
    "instruct/misc/fastchat_dummy_conversation.json": ("sharegpt", 500, 0),
    "instruct/misc/rulai_enhance.json": ("prompt_completion", 107, 0),
    "instruct/misc/seed_tasks.jsonl": ("self_instruct", 175, 0),
    "preference/hh-rlhf": ("preference", 2312, 0),
    "text/chinese-poetry/yuanqu.json": ("text", 11_057, 143),
    "text/gutenberg": ("text", None, 0),
    "text/tinyshakespeare": ("text", 32_777, 0),
}


@pytest.mark.shared
@pytest.mark.parametrize("name", REAL)
def test_real_files(shared_data, name):
    found = read.rows(shared_data / name)
    expected = REAL[name]
    if isinstance(expected, str):
        with pytest.raises(DataError, match=expected):
            base.detect(list(itertools.islice(found, 20)))
        return
    first = list(itertools.islice(found, 20))
    format, rows, bad = expected
    assert base.detect(first) == format
    module = base.load(format)
    results = [_parsed(module, one) for one in itertools.chain(first, found)]
    assert rows in (None, len(results))
    assert results.count(None) == bad


def _parsed(module, one):
    try:
        return base.samples(module, one, {}, CONFIG)
    except DataError:
        return None


@pytest.mark.parametrize(
    ("value", "advice"),
    [
        ({"prompt;completion": "a;b"}, "name each column once"),
        ({"data": [{"instruction": "a", "output": "b"}]}, "stand under `data`"),
        ({"a": [{"x": 1}], "b": 1}, "map the columns"),
    ],
)
def test_what_a_file_that_looks_wrong_is_told(value, advice):
    with pytest.raises(DataError, match="D120") as caught:
        base.detect([row(value)])
    assert advice in caught.value.fix


@pytest.mark.parametrize(
    ("value", "what", "fix"),
    [
        ({"messages": "hello"}, "`messages` is text, not a list of messages", "openai holds"),
        (
            {"messages": '[{"role": 1}]'},
            "`messages` is text, not a list of messages",
            "the list itself",
        ),
        ({"instruction": ["a"], "output": 3}, "`instruction` is a list, not text", "alpaca holds"),
        (
            {"conversations": [{"speaker": "Ann", "says": "hi"}]},
            "`conversations[0]` is no message: it has no `role`",
            "--columns messages=conversations,role_tag=speaker,content_tag=says",
        ),
    ],
)
def test_columns_that_are_there_are_not_called_missing(value, what, fix):
    with pytest.raises(DataError, match="D120") as caught:
        base.detect([row(value), row(value)])
    assert "columns are those of" in caught.value.what
    assert "each of the first 2 rows" in caught.value.what
    assert caught.value.what.endswith(what)
    assert caught.value.where == row(value).where
    assert fix in caught.value.fix
