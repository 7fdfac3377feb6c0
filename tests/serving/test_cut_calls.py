"""Forced calls that `max_tokens` cuts: the call as far as it came, and never its markup as text."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, strategies as st

from tests.serving.test_form import WEATHER, served  # noqa: F401
from tests.serving.test_real_tools import NEMO, served as real  # noqa: F401
from tests.serving.test_tool_calls import ASK, TOOL
from tunesmith.serving import cut_calls
from tunesmith.serving.tool_calls import CallFormat, CallShape

ARGUMENTS = {"city": 'Ulm "am" Münster \\ {', "days": [1, -2.5e3, None], "more": {"deep": True}}
CALL = {"name": "get_weather", "arguments": ARGUMENTS}
LLAMA = {"name": "get_weather", "parameters": ARGUMENTS}
STYLES = {
    "chatml": (
        CallFormat("<tool_call>", shape=CallShape("<tool_call>\n", closing="\n</tool_call>")),
        f"<tool_call>\n{json.dumps(CALL)}\n</tool_call>",
    ),
    "llama3": (CallFormat("{"), json.dumps(LLAMA, ensure_ascii=False)),
    "mistral": (
        CallFormat("[TOOL_CALLS]", 9, CallShape("[", 9, closing="]")),
        f"[TOOL_CALLS][{json.dumps(CALL)}]",
    ),
}


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("forced", [True, False])
def test_at_every_place_a_call_is_cut_it_is_as_far_as_it_came(style, forced):
    format, whole = STYLES[style]
    begin = whole.index("{", 1 if style == "llama3" else whole.index("{") + 1)
    written = whole[begin:]  # the arguments and what stands behind them
    named = whole.index('"get_weather"') + len('"get_weather"')
    for end in range(len(whole)):
        cut = cut_calls.read(format, whole[:end], ["get_weather"], forced=forced)
        if cut is None:  # half a marker, or an object that is not yet a call
            assert not forced
            assert style == "llama3" or end < len(format.opening)
            continue
        assert cut.words == ""
        assert [call.name for call in cut.calls] == ["get_weather"] * (end >= named)
        if cut.calls and end > begin:
            said = cut.calls[0].arguments
            assert written.startswith(said) or json.loads(said) == ARGUMENTS
            assert len(said) >= min(end - begin, len(json.dumps(ARGUMENTS, ensure_ascii=False)))


def test_the_second_of_two_calls_is_cut():
    format, whole = STYLES["chatml"]
    cut = cut_calls.read(format, f'{whole}\n<tool_call>\n{{"name": "get_weather"', ["get_weather"])
    assert cut is not None
    assert [call.arguments for call in cut.calls] == [json.dumps(ARGUMENTS, ensure_ascii=False), ""]
    one = cut_calls.read(format, whole[:-30] + "}", ["get_weather"], several=False, forced=True)
    assert one is not None
    assert len(one.calls) == 1


@pytest.mark.parametrize(
    "text",
    [
        "<tool_call> is a mark that",
        '<tool_call>\n{"name": "rm_rf", "arguments": {"a',
        '<tool_call>\n{"name": "get_weather", "arguments": {city: "Ulm"} and so',
        "I call <tool",
        '<tool_call>\n{"name": 3, "argum',
    ],
)
def test_what_is_not_forced_and_no_beginning_of_a_call_is_text(text):
    assert cut_calls.read(STYLES["chatml"][0], text, ["get_weather"]) is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), JSON, max_size=3), st.booleans(), st.data())
def test_whatever_the_arguments_their_beginning_is_told(arguments, ascii, data):
    text = json.dumps({"name": "f", "arguments": arguments}, ensure_ascii=ascii)
    end = data.draw(st.integers(0, len(text) - 1))
    cut = cut_calls.read(CallFormat("{"), text[:end], ["f"])
    begun = text.index('"arguments": ') + len('"arguments": ')
    if end > begun:
        assert cut is not None
        (call,) = cut.calls
        rest = text[begun:end].rstrip("\ufffd")
        assert call.arguments == rest or json.loads(call.arguments) == arguments


# ---------------------------------------------------------------- over HTTP


def streamed(chunks):
    """(content, name, arguments, finish_reason) of the first choice."""
    choices = [chunk.choices[0] for chunk in chunks if chunk.choices]
    calls = [call.function for choice in choices for call in choice.delta.tool_calls or ()]
    return (
        "".join(choice.delta.content or "" for choice in choices),
        "".join(call.name or "" for call in calls),
        "".join(call.arguments or "" for call in calls),
        choices[-1].finish_reason,
    )


def whole(reply):
    (choice,) = reply.choices
    (call,) = choice.message.tool_calls or (None,)
    said = (call.function.name, call.function.arguments) if call else ("", "")
    return choice.message.content or "", *said, choice.finish_reason


NAMED = {"type": "function", "function": {"name": "get_weather"}}


@pytest.mark.parametrize(
    ("model", "choice"),
    [
        pytest.param("llama3", "required", id="required-llama3"),
        pytest.param("chatml", NAMED, id="named-chatml"),
        pytest.param("chatml", "required", id="required-chatml", marks=pytest.mark.slow),
        pytest.param("llama3", NAMED, id="named-llama3", marks=pytest.mark.slow),
    ],
)
def test_forced_calls_are_cut_by_max_tokens(served, model, choice):  # noqa: F811
    """The real engine, held to the call: at each length as far as it came."""
    fields = {"model": model, "messages": ASK, "tools": [WEATHER], "tool_choice": choice}
    fields |= {"temperature": 1.0, "seed": 1, "parallel_tool_calls": False}
    create = served.openai.chat.completions.create
    full = whole(create(**fields, max_tokens=200))
    assert full[3] == "tool_calls"
    seen = set()
    for most in range(3, 200, 17):
        reply = create(**fields, max_tokens=most)
        found = whole(reply)
        assert found == streamed(create(**fields, max_tokens=most, stream=True))
        content, name, arguments, reason = found
        assert content == ""
        assert name in ("", "get_weather")
        if reason == "tool_calls":
            assert found == full
            break
        assert reason == "length"
        assert reply.usage.completion_tokens == most
        kept = "".join(arguments.split())
        assert "".join(full[2].split()).startswith(kept)
        seen.add((bool(name), bool(arguments)))
    assert {(False, False), (True, True)} <= seen <= {(False, False), (True, False), (True, True)}


@pytest.mark.parametrize("choice", ["auto", "required", NAMED], ids=["auto", "required", "named"])
def test_a_cut_call_of_chatml(scripted, tiny_offer, choice):
    said = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Ul'
    ids = tiny_offer.tokenizer.encode_text(said)
    with scripted(lambda request: list(ids), template="chatml") as (at, _):
        for stream in (False, True):
            reply = at.openai.chat.completions.create(
                model="tiny", messages=ASK, tools=[TOOL], tool_choice=choice, stream=stream
            )
            found = streamed(reply) if stream else whole(reply)
            assert found == ("", "get_weather", '{"city": "Ul', "length")


@pytest.mark.parametrize("said", ["", "<to", "<tool_call>\n", '<tool_call>\n{"name": "get_we'])
def test_before_a_name_is_whole_nothing_is_said(scripted, tiny_offer, said):
    ids = tiny_offer.tokenizer.encode_text("\n" + said)
    with scripted(lambda request: list(ids), template="chatml") as (at, _):
        for stream in (False, True):
            reply = at.openai.chat.completions.create(
                model="tiny", messages=ASK, tools=[TOOL], tool_choice="required", stream=stream
            )
            found = streamed(reply) if stream else whole(reply)
            assert found == ("", "", "", "length")


@pytest.mark.shared
def test_a_cut_call_of_mistral(real):  # noqa: F811
    """Its marker is a control token, which decoded text leaves out."""
    said = '[TOOL_CALLS][{"name": "get_weather", "arguments": {"city": "Ulm"}}, {"name": "get_w'
    with real(NEMO, said) as (at, generator):
        script = generator.script
        generator.script = lambda request: script(request)[:-1]  # no end marker: cut off
        for stream in (False, True):
            reply = at.openai.chat.completions.create(
                model="tiny", messages=ASK, tools=[TOOL], tool_choice="required", stream=stream
            )
            found = streamed(reply) if stream else whole(reply)
            assert found == ("", "get_weather", '{"city": "Ulm"}', "length")
