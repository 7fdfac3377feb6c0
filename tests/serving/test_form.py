"""The official client against the real engine: answers that must call a tool, or be of a form."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest
from pydantic import BaseModel

from tests.serving.conftest import running
from tunesmith.compose import sampling
from tunesmith.compose.answering import Forms
from tunesmith.generation.torch import TorchGenerator
from tunesmith.templates import base as templates

ASK = [{"role": "user", "content": "Weather in Ulm?"}]
CITY = {"enum": ["Ulm", "Bonn"]}
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"city": CITY, "days": {"type": "integer"}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
TIME = {"type": "function", "function": {"name": "get_time"}}
FORM = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"enum": ["aa", "bb"]}}}
HOT = {"temperature": 1.0, "max_tokens": 200}


def offer_of(tiny_offer, name):
    """The embedded model with a template that has tools."""
    chat = templates.load(name, tiny_offer.tokenizer.path)
    plain = sampling.defaults(chat, None)
    return dataclasses.replace(
        tiny_offer,
        name=name,
        template=chat,
        defaults=plain,
        generator=TorchGenerator(tiny_offer.reader.model, chat.tokenizer, max_rows=8),
        forms=Forms(chat.tokenizer, plain.stop_ids),
    )


@pytest.fixture(scope="module")
def served(tiny_offer):
    with running([offer_of(tiny_offer, "chatml"), offer_of(tiny_offer, "llama3")]) as found:
        yield found


def ask(served, model="chatml", **fields):
    given = {**HOT, "seed": 1, **fields}
    return served.openai.chat.completions.create(model=model, messages=ASK, **given)


def asks(served, seeds: Iterable[int], model="chatml", **fields):
    """The answer for each seed. Asked all at once, for the engine answers a batch in the time of
    one."""
    with ThreadPoolExecutor(16) as pool:
        replies = pool.map(lambda seed: ask(served, model, **{**fields, "seed": seed}), seeds)
        return [reply.choices[0] for reply in replies]


def calls_of(choice):
    return [(c.function.name, json.loads(c.function.arguments)) for c in choice.message.tool_calls]


@pytest.mark.parametrize("model", ["chatml", "llama3"])
def test_a_named_tool_is_called_once_and_nothing_is_said(served, model):
    named = {"type": "function", "function": {"name": "get_weather"}}
    for choice in asks(served, range(6), model, tools=[TIME, WEATHER], tool_choice=named):
        assert choice.finish_reason == "tool_calls"
        assert not choice.message.content
        ((name, arguments),) = calls_of(choice)
        assert name == "get_weather"
        assert arguments["city"] in CITY["enum"]
        assert isinstance(arguments.get("days", 0), int)


def test_required_calls_at_least_one_of_the_tools(served):
    strict = [WEATHER, {**TIME, "function": {**TIME["function"], "parameters": {"properties": {}}}}]
    names = set()
    for choice in asks(served, range(12), tools=strict, tool_choice="required"):
        if choice.finish_reason == "length":  # call after call: cut off, and it says so
            continue
        names |= {name for name, _ in calls_of(choice)}
    assert names == {"get_weather", "get_time"}


def test_without_parallel_calls_there_is_one(served):
    fields = {"tools": [WEATHER], "tool_choice": "required", "parallel_tool_calls": False}
    for choice in asks(served, range(8), **fields):
        assert choice.finish_reason == "tool_calls"
        assert len(calls_of(choice)) == 1


def test_a_forced_call_in_a_stream(served):
    named = {"type": "function", "function": {"name": "get_weather"}}
    fields = {"tools": [WEATHER], "tool_choice": named}
    whole = ask(served, **fields).choices[0]
    chunks = [chunk.choices[0] for chunk in ask(served, stream=True, **fields)]
    assert not any(chunk.delta.content for chunk in chunks)
    (call,) = [call for chunk in chunks for call in chunk.delta.tool_calls or ()]
    assert call.function.arguments == whole.message.tool_calls[0].function.arguments
    assert chunks[-1].finish_reason == "tool_calls"


@pytest.mark.parametrize("model", ["chatml", "llama3"])
def test_with_tools_an_answer_is_a_call_or_of_the_form(served, model):
    """As OpenAI has it. Which of the two is the model's choice, so it is pushed to each."""
    tokens = served.post("/tokenize", {"model": model, "prompt": "<"}).json()["tokens"]
    seen = set()
    for bias in (100, -100) if model == "chatml" else (0,):
        wanted = {"tools": [WEATHER], "response_format": FORM, "parallel_tool_calls": False}
        wanted["logit_bias"] = {str(tokens[-1]): bias}
        for choice in asks(served, range(8), model, **wanted):
            seen.add(choice.finish_reason)
            if choice.finish_reason == "stop":
                assert json.loads(choice.message.content) in ("aa", "bb")
            elif choice.finish_reason == "tool_calls":
                assert calls_of(choice)[0][1]["city"] in CITY["enum"]
    assert "stop" in seen
    assert "tool_calls" in seen or model == "llama3"


def test_a_strict_tool_changes_nothing_until_a_call_begins(served):
    strict = {**WEATHER, "function": {**WEATHER["function"], "strict": True}}
    plain = ask(served, tools=[WEATHER], max_tokens=24).choices[0]
    held = ask(served, tools=[strict], max_tokens=24).choices[0]
    single = ask(served, tools=[WEATHER], parallel_tool_calls=False, max_tokens=24).choices[0]
    assert plain.message.content
    assert held.message.content == single.message.content == plain.message.content


class Person(BaseModel):
    trade: bool


def test_the_clients_own_parser_takes_tools_and_forms(served):
    """`parse` sends strict schemas, and validates what comes back."""
    create = served.openai.chat.completions.parse
    reply = create(model="chatml", messages=ASK, response_format=Person, seed=1, **HOT)
    assert isinstance(reply.choices[0].message.parsed, Person)
    tool = openai.pydantic_function_tool(Person)
    reply = create(
        model="chatml", messages=ASK, tools=[tool], tool_choice="required",
        parallel_tool_calls=False, seed=1, **HOT,
    )  # fmt: skip
    (call,) = reply.choices[0].message.tool_calls
    assert isinstance(call.function.parsed_arguments, Person)


ODD = {"type": "object", "properties": {"a": {"not": {}}}}


@pytest.mark.parametrize(
    ("fields", "param", "match"),
    [
        ({"tool_choice": "required"}, "tool_choice", "without `tools`"),
        (
            {"tools": [TIME], "tool_choice": {"type": "function", "function": {"name": "rm"}}},
            "tool_choice",
            "none of `tools`",
        ),
        ({"tools": [TIME, TIME]}, "tools", "one name"),
        (
            {"tools": [{**TIME, "function": {"name": "x", "parameters": ODD, "strict": True}}]},
            "tools",
            "`not` is not supported",
        ),
        (
            {
                "tools": [{**TIME, "function": {"name": "x", "description": "y" * 40_000}}],
                "tool_choice": "required",
            },
            "tool_choice",
            "32,768",
        ),
    ],
)
def test_what_can_not_be_is_refused_by_name(served, fields, param, match):
    with pytest.raises(openai.BadRequestError, match=match) as caught:
        ask(served, **fields)
    assert caught.value.param == param


def test_parameters_that_are_not_strict_and_not_supported_are_any_object(served):
    tool = {"type": "function", "function": {"name": "x", "parameters": ODD}}
    reply = ask(
        served, tools=[tool], tool_choice="required", parallel_tool_calls=False, max_tokens=400
    )
    choice = reply.choices[0]
    assert choice.finish_reason in ("tool_calls", "length")
    if choice.finish_reason == "tool_calls":
        assert calls_of(choice)[0][0] == "x"
