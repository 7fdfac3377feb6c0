"""Tools: told by the template, called in the answer, given back as OpenAI has it."""

from __future__ import annotations

import json
import re

import openai
import pytest

from tunesmith.serving import tool_calls
from tunesmith.templates import base as templates

ASK = [{"role": "user", "content": "Weather in Ulm?"}]
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
CALL = '{"name": "get_weather", "arguments": {"city": "Ulm"}}'


@pytest.fixture
def calling(scripted, tiny_offer):
    """A model with ChatML's tools that answers with this text."""

    def serve(text):
        ids = [*tiny_offer.tokenizer.encode_text(text), tiny_offer.tokenizer.eos_id]
        return scripted(lambda request: ids, template="chatml")

    return serve


def test_a_call(calling):
    with calling(f"I look.\n<tool_call>\n{CALL}\n</tool_call>") as (served, generator):
        reply = served.openai.chat.completions.create(model="tiny", messages=ASK, tools=[TOOL])
        prompt = generator.tokenizer.decode(generator.seen[0].ids)
    choice = reply.choices[0]
    assert "Weather of a city." in prompt
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content == "I look."
    assert [c.function.name for c in choice.message.tool_calls] == ["get_weather"]
    assert json.loads(choice.message.tool_calls[0].function.arguments) == {"city": "Ulm"}
    assert re.fullmatch("[A-Za-z0-9]{9}", choice.message.tool_calls[0].id)  # as Mistral wants


def test_a_call_in_a_stream_never_shows_its_markup(calling):
    two = f"<tool_call>\n{CALL}\n</tool_call>\n<tool_call>\n{CALL}\n</tool_call>"
    with calling(f"I look. {two}") as (served, _):
        stream = served.openai.chat.completions.create(
            model="tiny", messages=ASK, tools=[TOOL], stream=True
        )
        deltas = [chunk.choices[0] for chunk in stream]
    said = "".join(d.delta.content or "" for d in deltas)
    assert said.strip() == "I look."
    calls = [call for d in deltas for call in d.delta.tool_calls or ()]
    assert [call.index for call in calls] == [0, 1]
    assert len({call.id for call in calls}) == 2
    assert deltas[-1].finish_reason == "tool_calls"


def test_the_result_goes_back_into_the_prompt(calling):
    call = {"id": "call_1", "type": "function", "function": json.loads(CALL)}
    call["function"]["arguments"] = json.dumps(call["function"]["arguments"])
    messages = [
        *ASK,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "17 degrees"},
    ]
    with calling("It is 17 degrees.") as (served, generator):
        reply = served.openai.chat.completions.create(model="tiny", messages=messages, tools=[TOOL])
        prompt = generator.tokenizer.decode(generator.seen[0].ids)
    assert reply.choices[0].message.content == "It is 17 degrees."
    assert reply.choices[0].message.tool_calls is None
    assert "17 degrees" in prompt
    assert "get_weather" in prompt


@pytest.mark.parametrize(
    "text",
    [
        f"<tool_call>\n{CALL.replace('get_weather', 'rm_rf')}\n</tool_call>",
        '<tool_call>\n{"name": "get_weather", "argum',
        "no call at all <tool",
    ],
)
def test_what_is_no_call_of_a_tool_is_text(calling, text):
    with calling(text) as (served, _):
        for stream in (False, True):
            body = {"messages": ASK, "tools": [TOOL], "stream": stream}
            reply = served.post("/v1/chat/completions", body)
            if stream:
                lines = [json.loads(x[6:]) for x in reply.text.splitlines() if x[:7] == "data: {"]
                said = "".join(c["choices"][0]["delta"].get("content") or "" for c in lines)
                reason = lines[-1]["choices"][0]["finish_reason"]
            else:
                choice = reply.json()["choices"][0]
                said, reason = choice["message"]["content"], choice["finish_reason"]
            assert (said, reason) == (text, "stop")


def test_tool_choice_none_tells_of_no_tools(calling):
    with calling(f"<tool_call>\n{CALL}\n</tool_call>") as (served, generator):
        reply = served.openai.chat.completions.create(
            model="tiny", messages=ASK, tools=[TOOL], tool_choice="none"
        )
        prompt = generator.tokenizer.decode(generator.seen[0].ids)
    assert reply.choices[0].finish_reason == "stop"
    assert "get_weather" not in prompt


def test_a_template_without_tools_refuses_them(tiny):
    """The embedded model's template leaves tools out: the model would never hear of them."""
    with pytest.raises(openai.BadRequestError, match="no way to call tools") as caught:
        tiny.openai.chat.completions.create(model="tiny", messages=ASK, tools=[TOOL])
    assert caught.value.param == "tools"


@pytest.mark.parametrize("name", ["chatml", "llama3"])
def test_formats_are_learnt_from_templates(name, tiny_offer):
    template = templates.load(name, tiny_offer.tokenizer.path)
    found = tool_calls.learn(template)
    assert found is not None
    assert found.opening == {"chatml": "<tool_call>", "llama3": "{"}[name]
    assert (found.shape.opening, found.shape.between) == {
        "chatml": ("<tool_call>\n", "\n</tool_call>\n<tool_call>\n"),
        "llama3": ("", None),
    }[name]
    assert found.shape.closing == {"chatml": "\n</tool_call>", "llama3": ""}[name]
    assert found.shape.arguments == {"chatml": "arguments", "llama3": "parameters"}[name]


def test_a_bare_object_is_a_call_only_where_the_answer_begins():
    bare = tool_calls.CallFormat("{")
    call = CALL.replace("arguments", "parameters")
    assert bare.parse(f" {call}", ["get_weather"])[1][0].name == "get_weather"
    assert bare.parse(f"so: {call}", ["get_weather"]) == (f"so: {call}", [])
    assert bare.certain('  {"na') == 2
    assert bare.certain(" so: {") == 6


def test_a_marker_that_is_a_control_token_is_seen():
    """Decoded text leaves it out, as with Mistral's [TOOL_CALLS]."""
    from tunesmith.serving.answers import Answer
    from tunesmith.types import Event

    format = tool_calls.CallFormat("[TOOL_CALLS]", 9)
    answer = Answer(calls=format, tools=["get_weather"])
    answer.add([Event("a", 3, 0, "Well "), Event("a", 9, 0, "")])
    answer.add([Event("a", 4, 0, f"[{CALL}]"), Event("a", 2, 0, "", "stop")])
    assert answer.delta() == "Well"
    assert [call.name for call in answer.parsed()[1]] == ["get_weather"]
