"""Each format: detected among the others, parsed, and refused with a reason."""

from __future__ import annotations

import itertools
import json

import pytest

from tunesmith import registry
from tunesmith.data import read
from tunesmith.data.formats import base
from tunesmith.data.json_rows import Row
from tunesmith.errors import ConfigError, DataError
from tunesmith.recipe.sections import DataConfig
from tunesmith.types import (
    Conversation,
    Document,
    Feedback,
    Message,
    Preference,
    Text,
    Thinking,
    ToolCall,
)

CONFIG = DataConfig()


def row(value, line=7):
    return Row(value, "f.jsonl", line)


def parse(value, columns=None, config=CONFIG, name=None):
    name = name or base.detect([row(value)], columns)
    return base.load(name).parse(row(value), columns or {}, config)


def said(sample):
    messages = sample if isinstance(sample, tuple) else sample.messages
    return [(message.role, message.text) for message in messages]


QA = [("user", "hi"), ("assistant", "yo")]


# ------------------------------------------------------------ alpaca


def test_alpaca():
    assert said(parse({"instruction": "hi", "output": "yo"})) == QA
    assert said(parse({"instruction": "hi", "input": "", "output": "yo", "history": None})) == QA
    joined = parse({"instruction": "add", "input": "1 2", "output": "3"})
    assert said(joined)[0] == ("user", "add\n1 2")
    config = DataConfig(input_joiner="")
    assert (
        said(parse({"instruction": "a", "input": "b", "output": "c"}, config=config))[0][1] == "ab"
    )
    assert said(parse({"instruction": "", "input": "b", "output": "c"}))[0][1] == "b"
    with_system = parse({"instruction": "hi", "output": "yo", "system": "be kind"})
    assert said(with_system) == [("system", "be kind"), *QA]


def test_alpaca_history_flat_and_in_pairs_are_the_same():
    flat = {"instruction": "hi", "output": "yo", "history": ["a", "b", "c", "d"]}
    pairs = {**flat, "history": [["a", "b"], ["c", "d"]]}
    assert parse(flat) == parse(pairs)
    turns = [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]
    assert said(parse(flat)) == turns + QA
    # Two characters are not a pair: strings are turns, whatever their length.
    assert said(parse({**flat, "history": ["ab", "cd"]}))[:2] == [
        ("user", "ab"),
        ("assistant", "cd"),
    ]


@pytest.mark.parametrize(
    ("history", "code"),
    [
        (["a"], "D123"),
        ([["a"]], "D123"),
        ([["a", "b"], "c"], "D123"),
        ("a", "D123"),
        ({"a": "b"}, "D123"),
        ([["a", 5]], "D122"),
        ([["a", ""]], "D122"),
    ],
)
def test_alpaca_history_that_is_none(history, code):
    with pytest.raises(DataError, match=rf"{code}(.|\n)*f.jsonl:7"):
        parse({"instruction": "hi", "output": "yo", "history": history}, name="alpaca")


@pytest.mark.parametrize(
    ("value", "code", "word"),
    [
        ({"instruction": "hi"}, "D121", "output"),
        ({"output": "yo"}, "D121", "instruction"),
        ({"instruction": "hi", "output": ""}, "D122", "output"),
        ({"instruction": " ", "output": "yo"}, "D122", "instruction"),
        ({"instruction": None, "output": "yo"}, "D122", "null"),
        ({"instruction": "hi", "output": 5}, "D122", "a number"),
        ({"instruction": "hi", "input": ["x"], "output": "yo"}, "D122", "a list"),
        ("plain", "D122", "plain text"),
    ],
)
def test_alpaca_rows_that_are_bad(value, code, word):
    with pytest.raises(DataError, match=rf"{code}.*{word}(.|\n)*f.jsonl:7"):
        parse(value, name="alpaca")


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


# ------------------------------------------------------------ prompt and completion


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("prompt", "completion"),
        ("q", "a"),
        ("question", "answer"),
        ("query", "response"),
        ("src", "tgt"),
        ("content", "summary"),
        ("input", "target"),
        ("input", "output"),
    ],
)
def test_pairs_of_columns(question, answer):
    assert said(parse({question: "hi", answer: "yo", "id": 3})) == QA


def test_lists_are_turns_of_one_conversation():
    value = {"src": ["hi", "and"], "tgt": ["yo", "so"], "context": {"system": "be kind"}}
    assert said(parse(value)) == [
        ("system", "be kind"),
        *QA,
        ("user", "and"),
        ("assistant", "so"),
    ]
    for bad in ({"src": ["a"], "tgt": []}, {"src": ["a"], "tgt": "b"}, {"src": [], "tgt": []}):
        with pytest.raises(DataError, match=r"D12[23]"):
            parse(bad)


def test_messages_as_prompt_and_completion():
    value = {
        "prompt": [{"role": "user", "content": "hi"}],
        "completion": [{"role": "assistant", "content": "yo"}],
    }
    assert said(parse(value)) == QA


# ------------------------------------------------------------ openai, sharegpt


def test_openai():
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]
    assert said(parse({"messages": messages})) == QA
    assert said(parse({"conversations": messages})) == QA
    with_system = parse({"messages": messages, "system": "be kind"})
    assert said(with_system) == [("system", "be kind"), *QA]


def test_openai_weights_tools_and_thinking():
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
    value = {
        "messages": [
            {"role": "developer", "content": "be kind"},
            {"role": "user", "content": [{"type": "text", "text": "hi"}]},
            {"role": "assistant", "content": None, "tool_calls": [call], "weight": 0},
            {"role": "tool", "content": "5", "tool_call_id": "1"},
            {"role": "assistant", "content": "yo", "reasoning_content": "hm", "weight": 1},
        ],
        "tools": json.dumps([{"type": "function", "function": {"name": "f"}}]),
    }
    sample = parse(value)
    assert [message.role for message in sample.messages] == [
        "system",
        "user",
        "assistant",
        "tool",
        "assistant",
    ]
    assert sample.messages[2] == Message("assistant", (ToolCall("f", '{"x": 1}', "1"),), 0.0)
    assert sample.messages[4] == Message("assistant", (Thinking("hm"), Text("yo")), 1.0)
    assert sample.tools == ({"type": "function", "function": {"name": "f"}},)


def test_openai_typed_parts_with_values():
    parts = [
        {"type": "reasoning", "value": "hm"},
        {"type": "text", "value": "yo"},
        {"type": "tool_call", "value": '{"name": "f", "arguments": {"x": 1}}'},
    ]
    value = {
        "messages": [
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": parts, "loss_weight": 1.0},
        ]
    }
    assert parse(value).messages[1].parts == (Thinking("hm"), Text("yo"), ToolCall("f", '{"x": 1}'))


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ({"content": "x"}, "D123"),
        ({"role": "narrator", "content": "x"}, "D123"),
        ({"role": ["user"], "content": "x"}, "D123"),
        ({"role": "user", "content": ""}, "D122"),
        ({"role": "user", "content": 5}, "D122"),
        ({"role": "user", "content": [{"type": "image_url", "image_url": {}}]}, "D124"),
        ({"role": "user", "content": [{"type": "odd", "odd": "x"}]}, "D122"),
        ({"role": "user", "content": "x", "weight": "1"}, "D122"),
        ({"role": "user", "content": "x", "weight": True}, "D122"),
        ({"role": "user", "content": "x", "weight": -1}, "D122"),
        ({"role": "assistant", "tool_calls": [{"id": "1"}]}, "D123"),
        ({"role": "assistant", "tool_calls": "f()"}, "D123"),
        ("x", "D123"),
    ],
)
def test_openai_messages_that_are_bad(message, code):
    with pytest.raises(DataError, match=rf"{code}(.|\n)*f.jsonl:7"):
        parse({"messages": [{"role": "user", "content": "hi"}, message]}, name="openai")


def test_openai_rows_that_are_bad():
    good = [{"role": "user", "content": "hi"}]
    for value, code in (
        ({"messages": []}, "D122"),
        ({"messages": "hi"}, "D123"),
        ({"other": 1}, "D121"),
        ({"messages": good, "tools": "{nonsense"}, "D123"),
        ({"messages": good, "tools": 7}, "D123"),
        ({"messages": good, "images": ["a.png"]}, "D124"),
    ):
        with pytest.raises(DataError, match=code):
            parse(value, name="openai")


def test_sharegpt():
    value = {
        "conversations": [
            {"from": "human", "value": "hi"},
            {"from": "function_call", "value": '{"name": "f", "arguments": {"x": 1}}'},
            {"from": "observation", "value": "5"},
            {"from": "gpt", "value": "yo"},
        ],
        "system": "be kind",
        "tools": '[{"name": "f"}]',
    }
    sample = parse(value)
    assert [m.role for m in sample.messages] == ["system", "user", "assistant", "tool", "assistant"]
    assert sample.messages[2].parts == (ToolCall("f", '{"x": 1}'),)
    assert sample.tools == ({"name": "f"},)


@pytest.mark.parametrize(
    ("turn", "code"),
    [
        ({"value": "x"}, "D123"),
        ({"from": "martian", "value": "x"}, "D123"),
        ({"from": "gpt", "value": ""}, "D122"),
        ({"from": "gpt"}, "D122"),
        ({"from": "function_call", "value": "f(1)"}, "D123"),
    ],
)
def test_sharegpt_turns_that_are_bad(turn, code):
    with pytest.raises(DataError, match=rf"{code}(.|\n)*f.jsonl:7"):
        parse({"conversations": [{"from": "human", "value": "hi"}, turn]}, name="sharegpt")
    with pytest.raises(DataError, match="D12"):
        parse({"conversations": []}, name="sharegpt")
    with pytest.raises(DataError, match="D121"):
        parse({"other": []}, name="sharegpt")


# ------------------------------------------------------------ preference, feedback


def u(text):
    return {"role": "user", "content": text}


def a(text):
    return {"role": "assistant", "content": text}


PAIRS = {
    "texts": {"prompt": "hi", "chosen": "yo", "rejected": "no"},
    "messages": {"prompt": [u("hi")], "chosen": [a("yo")], "rejected": [a("no")]},
    "one message": {"messages": [u("hi")], "chosen": a("yo"), "rejected": a("no")},
    "implicit prompt": {"chosen": [u("hi"), a("yo")], "rejected": [u("hi"), a("no")]},
    "repeated prompt": {
        "prompt": [u("hi")],
        "chosen": [u("hi"), a("yo")],
        "rejected": [u("hi"), a("no")],
    },
    "other names": {"chosen_messages": [u("hi"), a("yo")], "rejected_messages": [u("hi"), a("no")]},
    "sharegpt": {
        "conversations": [{"from": "human", "value": "hi"}],
        "chosen": {"from": "gpt", "value": "yo"},
        "rejected": {"from": "gpt", "value": "no"},
    },
    "transcripts": {
        "chosen": "\n\nHuman: hi\n\nAssistant: yo",
        "rejected": "\n\nHuman: hi\n\nAssistant: no",
    },
    "alpaca": {"instruction": "hi", "input": "", "output": ["yo", "no", "third"]},
    "alpaca columns": {"instruction": "hi", "chosen": "yo", "rejected": "no"},
}


@pytest.mark.parametrize("layout", PAIRS)
def test_preference_layouts_are_one(layout):
    assert base.detect([row(PAIRS[layout])]) == "preference"
    sample = parse(PAIRS[layout])
    assert isinstance(sample, Preference)
    assert said(sample.prompt) == [("user", "hi")]
    assert said(sample.chosen) == [("assistant", "yo")]
    assert said(sample.rejected) == [("assistant", "no")]


def test_preference_keeps_history_system_and_equal_answers():
    value = {"instruction": "hi", "output": ["yo", "no"], "history": [["a", "b"]], "system": "kind"}
    prompt = parse(value).prompt
    assert said(prompt) == [
        ("system", "kind"),
        ("user", "a"),
        ("assistant", "b"),
        ("user", "hi"),
    ]
    equal = parse({"chosen": [u("hi"), a("yo")], "rejected": [u("hi"), a("yo")]})
    assert said(equal.chosen) == said(equal.rejected) == [("assistant", "yo")]
    long = "\n\nHuman: a\n\nAssistant: b\n\nHuman: hi\n\nAssistant: "
    turns = parse({"chosen": long + "yo", "rejected": long + "no"})
    assert said(turns.prompt) == [("user", "a"), ("assistant", "b"), ("user", "hi")]


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ({"prompt": "hi", "chosen": "yo"}, "D121"),
        ({"chosen": "yo", "rejected": "no"}, "D121"),
        ({"prompt": "hi", "chosen": "yo", "rejected": ""}, "D122"),
        ({"prompt": "hi", "chosen": 5, "rejected": "no"}, "D123"),
        ({"prompt": None, "chosen": "yo", "rejected": "no"}, "D122"),
        ({"instruction": "hi", "output": ["yo"]}, "D122"),
        ({"chosen": [u("hi"), a("yo")], "rejected": [u("ho"), a("no")]}, "D123"),
        ({"prompt": "hi", "chosen": "yo", "rejected": "no", "images": ["a"]}, "D124"),
        ({"chosen": "x\n\nHuman: hi", "rejected": "x\n\nHuman: hi"}, "D123"),
    ],
)
def test_preference_rows_that_are_bad(value, code):
    with pytest.raises(DataError, match=rf"{code}(.|\n)*f.jsonl:7"):
        parse(value, name="preference")


def test_feedback():
    sample = parse({"messages": [u("hi"), a("yo")], "label": False})
    assert sample == Feedback(
        Conversation((Message.of("user", "hi"), Message.of("assistant", "yo"))), False
    )
    assert parse({"prompt": "hi", "completion": "yo", "label": True}).desirable
    with pytest.raises(DataError, match="D122"):
        parse({"prompt": "hi", "completion": "yo", "label": 1})
    with pytest.raises(DataError, match="D121"):
        parse({"prompt": "hi", "completion": "yo"}, name="feedback")
    with pytest.raises(DataError, match="D121"):
        parse({"label": True}, name="feedback")


# ------------------------------------------------------------ text


def test_text():
    assert parse("a line") == Document("a line")
    assert parse({"text": "a"}) == parse({"content": "a", "url": "b"}) == Document("a")
    for value, code in (({"text": ""}, "D122"), ({"text": 5}, "D122"), ({"other": "x"}, "D121")):
        with pytest.raises(DataError, match=code):
            parse(value, name="text")


def test_document():
    assert base.load("document").WHOLE_FILES
    assert parse("a\nb", name="document") == Document("a\nb")
    with pytest.raises(DataError, match="D122"):
        parse({"text": "a"}, name="document")


# ------------------------------------------------------------ detection


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
    "instruct/llms_tool/finetune": ("alpaca", 711, 0),
    "instruct/llms_tool/rm": ("preference", 91, 0),
    "instruct/misc/AdvertiseGen_dev.json": ("prompt_completion", 1070, 0),
    "instruct/misc/BELLE_eval_set.json": "D120",
    "instruct/misc/dev1K.json": ("alpaca", 1000, 0),
    "instruct/misc/fastchat_dummy_conversation.json": ("sharegpt", 500, 0),
    "instruct/misc/rulai_enhance.json": ("prompt_completion", 107, 0),
    "instruct/misc/seed_tasks.jsonl": "D120",
    "preference/hh-rlhf": ("preference", 2312, 0),
    "text/chinese-poetry/yuanqu.json": "D120",
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
        return module.parse(one, {}, CONFIG)
    except DataError:
        return None
